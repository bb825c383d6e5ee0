"""Workers: each takes trials of a study until there are as many as asked for.

Any number of them, on one machine or many, share a storage. A worker that is killed leaves a trial
that looks as if it ran; the others notice its silence, fail it and queue its values again
(`storage`). A worker that is interrupted queues its own.
"""

import logging
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from services.rl import paths
from services.rl.errors import AtmrError, TrainingError, UsageError
from services.rl.simulation.scenarios import Scenario

from ..task import Score
from .objective import RUNGS, STUDY_DAYS, objective_of
from .search_space import SearchSpace, kept_space
from .storage import GRACE_S, HEARTBEAT_S, close, open_storage, turnstile
from .study import (
    DEFAULT_TRIAL,
    KPIS_ATTR,
    PER_DAY,
    REASON,
    STEPS,
    STUDY_ID,
    WHOLE,
    StudySetup,
    existing_study,
    ready,
    standing,
)

logger = logging.getLogger("services.rl.training")

HOPELESS: Final = 5
"""So many failed trials, and none that was finished, end a study: nothing will come of it."""

ORDER: Final = "order"
"""Study attribute: what began it."""

RESTARTS: Final = 3
"""How often a worker that died is started again, per command."""


@dataclass(frozen=True)
class Order:
    """A study as processes hand it to each other; see `StudySetup` and `objective_of`.

    Attributes:
        name: Of the study.
        scenario: The world.
        policy: The kind.
        space: What is moved; already checked.
        storage: URL, or None: the machine's own file.
        mode: Budget of a trial.
        trials: That the study shall have in all.
        sampler: ``tpe`` or ``random``.
        pruning: Whether bad trials are stopped early.
        seed: Of the sampler and of every training.
        steps: See `objective_of`.
        days: Validation days.
        data_dir: Folder of real days.
        heartbeat_s: See `storage`.
        grace_s: See `storage`.
    """

    name: str
    scenario: Scenario
    policy: str
    space: SearchSpace
    storage: str | None
    mode: str
    trials: int
    sampler: str = "tpe"
    pruning: bool = True
    seed: int = 0
    steps: int | None = None
    days: int = STUDY_DAYS
    data_dir: str | None = None
    heartbeat_s: int = HEARTBEAT_S
    grace_s: int = GRACE_S

    def setup(self) -> StudySetup:
        """What is searched, with its objective."""
        objective = objective_of(
            self.policy,
            self.scenario,
            mode=self.mode,
            seed=self.seed,
            steps=self.steps,
            days=self.days,
            data_dir=self.data_dir,
        )
        return StudySetup(
            self.name, self.scenario, objective, self.space, self.sampler, self.pruning, self.seed
        )

    def document(self) -> dict[str, Any]:
        """What a study keeps of it, for those who come later; see `order_of`."""
        kept = ("policy", "mode", "sampler", "pruning", "seed", "steps", "days", "data_dir")
        return {
            "scenario": self.scenario.model_dump(mode="json"),
            "space": self.space.document(),
            **{name: getattr(self, name) for name in kept},
        }

    def connect(self) -> RDBStorage:
        """The storage."""
        return open_storage(self.storage, heartbeat_s=self.heartbeat_s, grace_s=self.grace_s)


def order_of(study: optuna.Study, storage: str | None) -> Order:
    """The order that began a study.

    Raises:
        UsageError: If it was begun by something else.
    """
    kept = study.user_attrs.get(ORDER)
    if not isinstance(kept, dict):
        raise UsageError(f"--study {study.study_name}: it was not begun by auto_tune.py")
    scenario = Scenario.model_validate(kept["scenario"])
    rest = {name: value for name, value in kept.items() if name not in ("scenario", "space")}
    fields = objective_of(
        kept["policy"],
        scenario,
        mode=kept["mode"],
        seed=kept["seed"],
        steps=kept["steps"],
        days=kept["days"],
        data_dir=kept["data_dir"],
    ).fields()
    space = kept_space(kept["space"], fields)
    return Order(study.study_name, scenario, space=space, storage=storage, trials=1, **rest)


OnTrial = Callable[[optuna.Study, FrozenTrial], None]


def work(order: Order, worker: int = 0, on_trial: OnTrial | None = None) -> None:
    """Take trials until the study has as many as ordered, and none is left under way.

    Args:
        order: Which study; it must have begun.
        worker: Number of this worker, for its random numbers.
        on_trial: Told of every trial that this worker has finished.

    Raises:
        TrainingError: If every trial fails.
        KeyboardInterrupt: If interrupted; the trial's values are queued again.
    """
    storage = order.connect()
    try:
        setup = order.setup()
        study = ready(existing_study(order.name, storage), setup, worker)
        silent = _Silent(storage, order.grace_s)
        while _turn(study, setup, order, silent, on_trial):
            pass
    finally:
        close(storage)


def _turn(
    study: optuna.Study,
    setup: StudySetup,
    order: Order,
    silent: "_Silent",
    on_trial: OnTrial | None,
) -> bool:
    """One trial, or a short wait for those of others; False when there is nothing left to do."""
    silent.give_up(study)
    with turnstile(silent.storage, order.name) as let_next:
        now = standing(study)
        if now.finished >= order.trials:
            return False
        if not now.complete and not now.pruned and now.failed >= HOPELESS:
            last = [t for t in study.get_trials(deepcopy=False) if REASON in t.user_attrs][-1]
            raise TrainingError(
                f"study {order.name}: {now.failed} trials failed and none was finished; the last: "
                f"{last.user_attrs[REASON]}"
            )
        if now.finished + now.running < order.trials:
            objective = _Trial(setup, let_next)
            study.optimize(
                objective,
                n_trials=1,
                catch=(AtmrError, MemoryError),
                callbacks=[on_trial] if on_trial else None,
            )
            return True
    time.sleep(min(5.0, order.heartbeat_s / 2))  # others may yet die, and leave work to do
    return True


class _Trial:
    """A trial as Optuna calls it."""

    def __init__(self, setup: StudySetup, started: Callable[[], None]) -> None:
        self._setup = setup
        self._started = started

    def __call__(self, trial: optuna.Trial) -> float:
        """The score; ends early by `optuna.TrialPruned`."""
        objective = self._setup.objective
        is_default = DEFAULT_TRIAL in trial.user_attrs
        try:
            values = self._setup.space.draw(trial)
            self._started()
            trial.set_user_attr(WHOLE, objective.steps(values))
            last: list[tuple[Score, int]] = []

            def report(rung: int, score: Score, steps: int) -> None:
                _finite(score)
                trial.report(score.mean, rung)
                last[:] = [(score, steps)]
                parent = parent_process()
                if parent is not None and not parent.is_alive():
                    raise KeyboardInterrupt  # nobody waits for this worker any more
                # The default is played to the end: the others are measured against it.
                if rung < RUNGS and not is_default and trial.should_prune():
                    self._note(trial, *last[0])
                    raise optuna.TrialPruned(f"rung {rung} of {RUNGS}")

            name = trial_folder(trial.study, trial.number)
            score = objective.run(values, name, report)
            _finite(score)
            self._note(trial, score, last[0][1])
            trial.set_user_attr(PER_DAY, np.round(score.per_episode, 4).tolist())
            return score.mean
        except KeyboardInterrupt:
            again = {DEFAULT_TRIAL: True} if is_default else {}
            # Interrupted while drawing, it has drawn but a part of what was queued.
            kept = trial.study.get_trials(deepcopy=False)[trial.number].system_attrs
            queued = kept.get("fixed_params", trial.params)
            trial.study.enqueue_trial(queued, user_attrs=again)
            raise
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(REASON, str(error) or type(error).__name__)
            logger.warning("trial %d failed: %s", trial.number, error)
            raise

    @staticmethod
    def _note(trial: optuna.Trial, score: Score, steps: int) -> None:
        trial.set_user_attr(STEPS, steps)
        trial.set_user_attr(KPIS_ATTR, {k: round(v, 4) for k, v in score.kpis.items()})


def trial_folder(study: optuna.Study, number: int) -> str:
    """Name of a trial's folder under ``results/``; another storage may hold the same study name."""
    of = study.user_attrs.get(STUDY_ID, "")
    return f"{study.study_name}.{of}.trial_{number:04d}"[-100:].lstrip("._-")


def remove_leftovers(study: optuna.Study) -> None:
    """Remove what killed trials left behind: a trial that ends removes its folder itself."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            name = trial_folder(study, trial.number)
            for folder in (paths.results_dir() / name, paths.data_dir() / "tensorboard" / name):
                shutil.rmtree(folder, ignore_errors=True)


def _finite(score: Score) -> None:
    if not np.isfinite(score.mean):
        raise TrainingError(f"the score on validation days is {score.mean}: the training diverged")


class _Silent:
    """Gives up trials whose processes have died.

    Optuna does so for those that once gave a sign of life; one that was killed before its first
    would run for ever.

    Attributes:
        storage: Of the study.
    """

    def __init__(self, storage: RDBStorage, grace_s: int) -> None:
        self.storage = storage
        self._grace_s = grace_s
        self._first_seen: dict[int, float] = {}

    def give_up(self, study: optuna.Study) -> None:
        """Fail them; their values are queued again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if not running:
            return
        with self.storage.engine.connect() as connection:
            rows = connection.execute(text("SELECT trial_id FROM trial_heartbeats"))
            alive = {int(row[0]) for row in rows}
        now = time.monotonic()
        for trial in running:
            seen = self._first_seen.setdefault(trial._trial_id, now)
            if trial._trial_id not in alive and now - seen > self._grace_s:
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
                again = self.storage.get_heartbeat_stale_trial_callback()
                assert again is not None
                again(study, self.storage.get_trial(trial._trial_id))


# --- several at once -------------------------------------------------------------------------


def work_together(order: Order, workers: int, on_look: Callable[[], None] | None = None) -> None:
    """Run several workers as processes; returns when the study has its trials.

    A worker that dies is started again, `RESTARTS` times in all. Ctrl-C is passed on once.

    Args:
        order: Which study; it must have begun.
        workers: How many.
        on_look: Called about once a second meanwhile.

    Raises:
        TrainingError: If workers go on dying, or every trial fails.
        KeyboardInterrupt: If interrupted, after the workers have stopped.
    """
    context = get_context("spawn")  # Torch and compiled code do not survive a fork

    def started(number: int) -> BaseProcess:
        process = context.Process(target=_child, args=(order, number), daemon=True)
        process.start()
        return process

    running = {number: started(number) for number in range(workers)}
    left = RESTARTS
    try:
        while running:
            for number, process in list(running.items()):
                process.join(1.0 / len(running))
                if process.exitcode is None:
                    continue
                del running[number]
                if process.exitcode == _GAVE_UP:
                    raise TrainingError(_last_reason(order))
                if process.exitcode != 0:
                    if not left:
                        raise TrainingError(
                            f"study {order.name}: workers go on dying (exit code "
                            f"{process.exitcode}); go on with --resume"
                        )
                    left -= 1
                    logger.warning("worker %d died (%s): restarted", number, process.exitcode)
                    running[number] = started(number)
            if on_look is not None:
                on_look()
    except BaseException:
        _stop(list(running.values()))
        raise


_GAVE_UP: Final = 3
_STOPPING_S = 60.0


def _child(order: Order, number: int) -> None:
    """A worker's process: in a group of its own, so that Ctrl-C reaches it through its parent."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all, it reaches us as SIGINT
    logging.basicConfig(format="%(message)s")
    logging.getLogger().handlers[0].setLevel(logging.WARNING)  # not every look of every worker
    try:
        work(order, number)
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    except TrainingError as error:
        logger.warning("%s", error)
        raise SystemExit(_GAVE_UP) from None


def _last_reason(order: Order) -> str:
    storage = order.connect()
    try:
        trials = existing_study(order.name, storage).get_trials(deepcopy=False)
    finally:
        close(storage)
    reasons = [t.user_attrs[REASON] for t in trials if REASON in t.user_attrs]
    last = reasons[-1] if reasons else "no reason was kept"
    return f"study {order.name}: every trial fails; the last: {last}"


def _stop(processes: list[BaseProcess]) -> None:
    """Ask once, wait, and kill what does not stop: heartbeats tell of it."""
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    until = time.monotonic() + _STOPPING_S
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def folder_of(name: str) -> Path:
    """``results/<study>``: reports, winners and confirmed models."""
    return paths.results_dir() / name


def summary(study: optuna.Study) -> dict[str, Any]:
    """Counts and the best so far, as plain data."""
    now = standing(study)
    best = None
    if now.complete:
        trial = study.best_trial
        best = {"trial": trial.number, "score": trial.value, "params": trial.params}
    return {**vars(now), "best": best}
