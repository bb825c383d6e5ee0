"""A study: what is searched, for what, with which code; kept with it and compared on resume.

Optuna's TPE draws all parameters together (multivariate; Bergstra et al. 2011, Falkner et al.
2018) and takes running trials for bad ones, so that workers do not draw alike. Asynchronous
successive halving (Li et al. 2020) stops the worse half at each of the rungs 1, 2 and 4 of 8. It
lets too many pass where later trials are better than earlier ones, as TPE's are: it saved 46 and
47 % of the steps of two studies (SEMAINE_17_GUIDE.md, 7.1). From rung 4 on a trial must also keep
up with the median of those played to the end (Golovin et al. 2017).
"""

import hashlib
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from services.rl.errors import UsageError
from services.rl.simulation.scenarios import Scenario

from .dotted_names import dotted, plain
from .objective import Objective
from .search_space import SearchSpace, document_sha256

SAMPLERS: Final = ("tpe", "random")
PRUNER: Final = "halving 1 2 4, median from 4"
STARTUP_TRIALS: Final = 10
"""Trials drawn at random before TPE has enough to go by."""

_ROOT = Path(__file__).resolve().parents[2]
_BEARING: Final = (
    "simulation", "policies", "dqn_agent.py", "q_networks.py", "replay_buffer.py", "sum_tree.py",
    "dispatch_env.py", "dispatch_vector_env.py",
)  # fmt: skip
"""Code that scores depend on, beside the files of training itself."""

DEFAULT_TRIAL: Final = "default"  # user attribute of the trial that plays the defaults
REASON: Final = "reason"  # user attribute of a trial that failed: why
STEPS: Final = "steps"
RUNS: Final = "runs"  # study attribute: command, commit and machine of every run
STUDY_ID: Final = "id"  # study attribute: tells it from another of its name
_BEGUN: Final = "begun"
WHOLE: Final = "whole"  # steps that the trial would take if it is not stopped
_FEW = 3  # differences told in a sentence
KPIS_ATTR: Final = "kpis"
PER_DAY: Final = "per_day"


@dataclass(frozen=True)
class StudySetup:
    """All that makes two trials comparable.

    Attributes:
        name: Of the study.
        scenario: The world.
        objective: What a trial does.
        space: What it moves.
        sampler: ``tpe`` or ``random``.
        pruning: Whether bad trials are stopped early.
        seed: Of the sampler.
    """

    name: str
    scenario: Scenario
    objective: Objective
    space: SearchSpace
    sampler: str = "tpe"
    pruning: bool = True
    seed: int = 0

    def marks(self) -> dict[str, Any]:
        """Study attributes that must not differ on resume."""
        return {
            "policy": self.objective.policy,
            "scenario_hash": self.scenario.sha256,
            "space_hash": self.space.sha256,
            "budget_hash": document_sha256(self.objective.identity()),
            "code_hash": code_sha256(),
            "sampler": self.sampler,
            "pruning": self.pruning,
            "pruner": PRUNER if self.pruning else None,
        }

    def story(self) -> dict[str, Any]:
        """Study attributes for people."""
        fleet, rules = self.scenario.fleet, self.scenario.rules
        return {
            "scenario": self.scenario.name,
            "drivers": fleet.num_drivers,
            "day_hours": rules.horizon_min / 60.0,
            "space": self.space.document(),
            "budget": self.objective.identity(),
            "unit": self.objective.unit,
            "sampler_seed": self.seed,
        }


def code_sha256() -> str:
    """SHA-256 over the sources that a score depends on: simulation, policies, agent, training.

    Reports and searches (this package) are no part of it.
    """
    files: list[Path] = []
    for name in _BEARING:
        path = _ROOT / name
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    files += sorted((_ROOT / "training").glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(_ROOT).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def open_study(
    setup: StudySetup, storage: RDBStorage, *, resume: bool, other_code: bool = False
) -> optuna.Study:
    """Begin a study, or go on with one.

    Args:
        setup: What is searched.
        storage: Where.
        resume: Go on; else there must be none of the name.
        other_code: Go on although the code has changed; noted in the study.

    Raises:
        UsageError: If there is one already, or none, or it is of something else.
    """
    if resume:
        study = existing_study(setup.name, storage)
        if _BEGUN in study.user_attrs:
            _compare(study, setup, other_code)
            return study
    else:
        try:
            study = optuna.create_study(
                storage=storage, study_name=setup.name, direction="maximize"
            )
        except DuplicatedStudyError:
            count = len(existing_study(setup.name, storage).get_trials(deepcopy=False))
            raise UsageError(
                f"--study {setup.name}: it has {count} trials already; go on with --resume, or "
                "choose another name"
            ) from None
    own = study.user_attrs.get(STUDY_ID) or uuid.uuid4().hex[:8]
    for name, value in {STUDY_ID: own, **setup.marks(), **setup.story()}.items():
        study.set_user_attr(name, value)
    if not study.get_trials(deepcopy=False):
        defaults = setup.space.defaults(setup.objective.fields())
        study.enqueue_trial(defaults, user_attrs={DEFAULT_TRIAL: True})
    study.set_user_attr(_BEGUN, True)  # last: killed before, the study is begun again
    return study


def ready(study: optuna.Study, setup: StudySetup, worker: int) -> optuna.Study:
    """The study with its sampler and pruner, for one worker."""
    study.sampler = _sampler(setup, worker, len(study.get_trials(deepcopy=False)))
    study.pruner = _pruner(setup)
    return study


def existing_study(name: str, storage: RDBStorage) -> optuna.Study:
    """A study by name.

    Raises:
        UsageError: If there is none.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = sorted(s.study_name for s in storage.get_all_studies())
        raise UsageError(
            f"--study {name}: there is none of this name here"
            + (f"; there are {', '.join(known)}" if known else "")
        ) from None


def _compare(study: optuna.Study, setup: StudySetup, other_code: bool) -> None:
    kept, marks = study.user_attrs, setup.marks()
    words = {
        "policy": "policy",
        "scenario_hash": "scenario",
        "space_hash": "search space",
        "budget_hash": "budget of a trial",
        "code_hash": "code",
        "sampler": "sampler",
        "pruning": "pruning",
        "pruner": "pruner",
    }
    for name, now in marks.items():
        then = kept.get(name)
        if then == now or (name == "code_hash" and other_code):
            continue
        way = " (--other-code goes on all the same)" if name == "code_hash" else ""
        if name == "pruner":
            then = then or "halving 1 2 4, of an older version,"
            way = "; begin another study"
        raise UsageError(
            f"--resume: study {study.study_name} is of another {words[name]}: "
            f"{_short(then)} there, {_short(now)} now{_in_words(name, kept, setup)}{way}"
        )
    if kept.get("code_hash") != marks["code_hash"]:  # last: what is refused is not changed
        study.set_user_attr("earlier_code", [*kept.get("earlier_code", []), kept.get("code_hash")])
        study.set_user_attr("code_hash", marks["code_hash"])


def _in_words(mark: str, kept: Mapping[str, Any], setup: StudySetup) -> str:
    """Which fields behind two hashes differ, the first few."""
    behind = {
        "scenario_hash": ("scenario", "drivers", "day_hours"),
        "budget_hash": ("budget",),
        "space_hash": ("space",),
    }.get(mark, ())
    before, now = (dotted({n: side.get(n) for n in behind}) for side in (kept, setup.story()))
    names = [n for n in {**before, **now} if plain(before.get(n)) != plain(now.get(n))]
    told = []
    for n in names[:_FEW]:
        field = n.removeprefix("budget.").removeprefix("config.")
        told.append(f"{field} {before.get(n, 'none')} there, {now.get(n, 'none')} now")
    more = f", and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f" ({'; '.join(told)}{more})" if told else ""


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _sampler(setup: StudySetup, worker: int, known: int) -> BaseSampler:
    # Each worker, and each start, draws from a stream of its own.
    seed = int.from_bytes(
        hashlib.sha256(f"{setup.seed}:{worker}:{known}".encode()).digest()[:4], "big"
    )
    if setup.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            multivariate=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS, seed=seed
        )


def _pruner(setup: StudySetup) -> BasePruner:
    if not setup.pruning:
        return NopPruner()
    return _HalvingThenMedian()


class _HalvingThenMedian(BasePruner):
    """See the module; `PRUNER` names it in the study."""

    def __init__(self) -> None:
        self._halving = SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        self._median = MedianPruner(n_startup_trials=3, n_warmup_steps=4)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether either stops the trial."""
        halved = self._halving.prune(study, trial)  # it notes the rung, so it is always asked
        return halved or self._median.prune(study, trial)


# --- what a study holds ----------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How many trials there are, by state.

    Attributes:
        complete: Played to the end.
        pruned: Stopped early.
        failed: Failed for a reason of their own, such as numbers that are none.
        lost: Given up: their process died, or was interrupted; their values were queued again.
        running: Under way, or believed so.
        waiting: Queued.
    """

    complete: int
    pruned: int
    failed: int
    lost: int
    running: int
    waiting: int

    @property
    def finished(self) -> int:
        """What counts towards the number of trials asked for."""
        return self.complete + self.pruned + self.failed


def standing(study: optuna.Study) -> Standing:
    """Count the trials."""
    trials = study.get_trials(deepcopy=False)
    failed = [t for t in trials if t.state == TrialState.FAIL]
    own = sum(REASON in t.user_attrs for t in failed)

    def count(state: TrialState) -> int:
        return sum(t.state == state for t in trials)

    return Standing(
        complete=count(TrialState.COMPLETE),
        pruned=count(TrialState.PRUNED),
        failed=own,
        lost=len(failed) - own,
        running=count(TrialState.RUNNING),
        waiting=count(TrialState.WAITING),
    )


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The best complete trials with values of their own, best first; the default is left out."""
    done = [t for t in complete_trials(study) if DEFAULT_TRIAL not in t.user_attrs]
    seen: list[dict[str, Any]] = []
    best: list[FrozenTrial] = []
    for trial in sorted(done, key=lambda t: -float(t.values[0])):
        if trial.params not in seen and len(best) < count:
            seen.append(trial.params)
            best.append(trial)
    return best


def complete_trials(study: optuna.Study) -> Sequence[FrozenTrial]:
    """Trials played to the end, in order."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def default_trial(study: optuna.Study) -> FrozenTrial | None:
    """The trial that played the defaults to the end, if it has."""
    done = [t for t in complete_trials(study) if DEFAULT_TRIAL in t.user_attrs]
    return done[0] if done else None
