"""Speed of learning beside Stable-Baselines3 and sb3-contrib; behind ``benchmark.py training``.

All learn on ``atmr/Dispatch-v1`` (geneva, compact observation) with the network 512-256-128 on one
thread, except our pair network, which is another network on another observation and says so.
Processor time, so that a busy machine disturbs it little; rows take turns, and ratios are formed
within each turn.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from services.rl.data.sources import split_seeds
from services.rl.errors import UsageError
from services.rl.policies.registry import make_policy
from services.rl.registration import register_environments
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Split, load_scenario
from services.rl.training.config import TrainingConfig, flat_fields
from services.rl.training.task import DispatchTask
from services.rl.training.trainer import Trainer

HIDDEN = (512, 256, 128)
BATCH, ENVIRONMENTS = 256, 32
VALIDATION_DAYS = 20
RACE_STEPS = 200_000
"""Over which exploration is planned in the race, each learner by its own schedule."""

WARM_UP = 5_000
"""Transitions learned before the clock starts."""

Greedy = Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_]], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Attributes:
        steps: Environment steps so far.
        learned: Transitions learned so far: batch size times updates.
        score: Judges the model as it is.
    """

    steps: int
    learned: int
    score: Callable[[], float]


Tick = Callable[[Moment], None]


@dataclass(frozen=True)
class Row:
    """A learner.

    Attributes:
        key: Short name.
        title: What the table says.
        train: Trains for so many steps from a seed, exploring (as its schedule says) or hardly
            (while it is timed), and calls back between rounds of acting and learning.
    """

    key: str
    title: str
    train: Callable[[int, int, bool, Tick], None]


class Enough(Exception):  # noqa: N818 - no error: how a training is left from within
    """Leave the training."""


# --- the learners -------------------------------------------------------------------------------


class _Rounds(BaseCallback):
    """Calls back before each round of acting."""

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self._tick = tick

    def _on_rollout_start(self) -> None:
        self._tick()

    def _on_step(self) -> bool:
        return True


def _environment() -> Any:
    register_environments()
    return gymnasium.make("atmr/Dispatch-v1", observation="compact", disable_env_checker=True)


def _train_sb3_dqn(
    num_envs: int, settings: dict[str, Any], seed: int, steps: int, explore: bool, tick: Tick
) -> None:
    model = DQN(
        "MlpPolicy",
        DummyVecEnv([_environment] * num_envs),
        policy_kwargs={"net_arch": list(HIDDEN)},
        buffer_size=100_000,  # the default million only takes memory here
        exploration_initial_eps=1.0 if explore else 0.05,
        seed=seed,
        device="cpu",
        **settings,
    )

    def greedy(
        states: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        # Its own policy knows no masks and could name a forbidden action for ever.
        with torch.no_grad():
            q = model.q_net(torch.from_numpy(states)).numpy()
        actions: npt.NDArray[np.int64] = np.where(masks, q, -np.inf).argmax(axis=1)
        return actions

    def round_begins() -> None:
        learned = model._n_updates * model.batch_size
        tick(Moment(model.num_timesteps, learned, partial(_score, greedy)))

    model.learn(steps, callback=_Rounds(round_begins))


def _train_maskable_ppo(seed: int, steps: int, explore: bool, tick: Tick) -> None:  # noqa: ARG001
    model = MaskablePPO(
        "MlpPolicy",
        _environment(),
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=seed,
        device="cpu",
    )

    def greedy(
        states: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        actions, _ = model.predict(states, action_masks=masks, deterministic=True)
        return np.asarray(actions, dtype=np.int64)

    def round_begins() -> None:  # every epoch goes once over the rollout
        learned = model._n_updates * model.n_steps
        tick(Moment(model.num_timesteps, learned, partial(_score, greedy)))

    model.learn(steps, callback=_Rounds(round_begins))


def _train_ours(
    key: str, fields: dict[str, Any], seed: int, steps: int, explore: bool, tick: Tick
) -> None:
    config = TrainingConfig().changed(**fields)
    h = config.hyperparameters
    initial = h.exploration_initial_eps if explore else h.exploration_final_eps
    config = config.changed(
        experiment_name=f"benchmark_{key}",
        seed=seed,
        total_timesteps=steps,
        hyperparameters={
            "exploration_initial_eps": initial,
            "learning_starts": h.learning_starts if explore else 1_000,
        },
        evaluation={"eval_freq": steps, "n_eval_episodes": VALIDATION_DAYS},
        checkpoints={"save_freq": steps, "save_replay_buffer": False},
    )

    def stepped(done: int, _numbers: dict[str, Any]) -> None:
        learned = trainer.agent.updates * h.batch_size
        tick(Moment(done, learned, lambda: trainer.evaluate().mean))

    trainer = Trainer(DispatchTask(load_scenario("geneva")), config, on_progress=stepped)
    try:
        trainer.train()
    finally:
        trainer.cleanup()


def _score(greedy: Greedy) -> float:
    """Mean KPI reward of the validation days, as our trainer judges its own."""
    engine = Engine(load_scenario("geneva"), VALIDATION_DAYS, observation="compact")
    engine.start(np.array(split_seeds(Split.VALIDATION, VALIDATION_DAYS)))
    out, playing = engine.out, np.ones(VALIDATION_DAYS, dtype=np.bool_)
    while playing.any():
        actions = greedy(out.observation, out.mask != 0)
        actions[~playing] = 0
        engine.step(actions)
        playing &= ~out.terminated
    return float(np.mean([engine.kpis(e)["reward"] for e in range(VALIDATION_DAYS)]))


def rows() -> list[Row]:
    """All learners."""
    flat = flat_fields()
    same = {  # ours with no more than SB3's DQN has, and SB3's with our numbers
        "learning_rate": 3e-4,
        "batch_size": BATCH,
        "gamma": 0.92,
        "tau": 0.01,
    }
    theirs = {**same, "learning_starts": 1_000, "gradient_steps": 1}
    plain = {
        **flat["hyperparameters"], **same,
        "hidden": HIDDEN, "num_envs": ENVIRONMENTS, "train_freq": 1, "gradient_steps": 1,
        "target_update_interval": 1, "double": False, "n_step": 1,
    }  # fmt: skip
    # The algorithm's defaults, not what the auto-tuner found for dispatch: all flat rows run the
    # same network, and the guide's table is of these.
    ours = {
        **flat["hyperparameters"],
        "learning_rate": 1e-4, "gamma": 0.92, "batch_size": 256, "hidden": HIDDEN,
    }  # fmt: skip
    one = {**theirs, "train_freq": ENVIRONMENTS, "target_update_interval": ENVIRONMENTS}
    many = {**theirs, "train_freq": 1, "target_update_interval": ENVIRONMENTS}
    ratio = f"batch {BATCH}, an update per {ENVIRONMENTS} steps"
    return [
        Row("sb3", "SB3 DQN, its defaults", partial(_train_sb3_dqn, 1, {})),
        Row("sb3_same", f"SB3 DQN, {ratio}", partial(_train_sb3_dqn, 1, one)),
        Row(
            "sb3_same_32", f"SB3 DQN, {ratio}, {ENVIRONMENTS} environments",
            partial(_train_sb3_dqn, ENVIRONMENTS, many),
        ),
        Row("ppo", "sb3-contrib MaskablePPO, its defaults", _train_maskable_ppo),
        Row(
            "ours_same", f"ours, flat, plain DQN, {ratio}, {ENVIRONMENTS} environments",
            partial(_train_ours, "ours_same", {**flat, "hyperparameters": plain}),
        ),
        Row(
            "ours", "ours, flat, its defaults",
            partial(_train_ours, "ours", {**flat, "hyperparameters": ours}),
        ),
        Row(
            "pair", "ours, pair network (another network), its defaults",
            partial(_train_ours, "pair", {}),
        ),
    ]  # fmt: skip


# --- what is measured ---------------------------------------------------------------------------


class _Player:
    """A row that trains in a thread of its own, one slice at a time, when it is its turn."""

    def __init__(self, row: Row, seconds: float) -> None:
        self.row = row
        self.slices: list[tuple[float, float]] = []  # steps/s, transitions learned/s
        self._seconds = seconds
        self._go, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self._begin: tuple[float, Moment] | None = None
        self._stop = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def play(self) -> None:
        """One slice; the first time only as far as the warm-up."""
        self._go.release()
        self._rests.acquire()
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """End the training."""
        self._stop = True
        self._go.release()
        self._thread.join()

    def _train(self) -> None:
        self._go.acquire()
        try:
            self.row.train(0, 100_000_000, False, self._tick)
        except Enough:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `play`
            self._failure = error
        self._rests.release()

    def _tick(self, now: Moment) -> None:
        if self._begin is None:
            if now.learned < WARM_UP:
                return
        else:
            since, first = self._begin
            spent = time.thread_time() - since
            if spent < self._seconds:
                return
            steps, learned = now.steps - first.steps, now.learned - first.learned
            self.slices.append((steps / spent, learned / spent))
        self._rests.release()
        self._go.acquire()
        if self._stop:
            raise Enough
        self._begin = (time.thread_time(), now)


def speeds(chosen: Sequence[Row], seconds: float, turns: int) -> dict[str, list[Any]]:
    """Steps and transitions learned per second of each row, in slices that take turns.

    A machine's speed drifts with what else runs on it; neighbouring slices see the same machine.
    Rounds of acting and learning are not cut: MaskablePPO's slices are longer.
    """
    players = [_Player(row, seconds) for row in chosen]
    try:
        for _ in range(1 + turns):
            for player in players:
                player.play()
    finally:
        for player in players:
            player.leave()
    return {player.row.key: player.slices for player in players}


@dataclass(frozen=True)
class Race:
    """How a training reached the goal, or did not.

    Attributes:
        reached_s: Processor time of training until then; None: not within the limits.
        steps: Environment steps until then, or in all.
        best: Best score seen; None: nobody looked.
        curve: ``(seconds, steps, score)`` of each look.
    """

    reached_s: float | None
    steps: int
    best: float | None
    curve: list[tuple[float, int, float]]


def race(row: Row, goal: float, limit_s: float, steps: int, seed: int = 0) -> Race:
    """Train until the score reaches the goal; looks every 20th of the limit, at no cost."""
    curve: list[tuple[float, int, float]] = []
    clock = {"begin": time.process_time(), "next": limit_s / 20}

    def tick(now: Moment) -> None:
        spent = time.process_time() - clock["begin"]
        if spent < clock["next"]:
            return
        looked = time.process_time()
        curve.append((spent, now.steps, now.score()))
        clock["begin"] += time.process_time() - looked
        clock["next"] = spent + limit_s / 20
        if curve[-1][2] >= goal or spent >= limit_s:
            raise Enough

    with suppress(Enough):
        row.train(seed, steps, True, tick)
    reached = curve[-1][0] if curve and curve[-1][2] >= goal else None
    best = max((score for *_, score in curve), default=None)
    return Race(reached, curve[-1][1] if curve else 0, best, curve)


def baseline(name: str) -> float:
    """Score of a policy on the same validation days."""
    scenario = load_scenario("geneva")
    engine = Engine(scenario, VALIDATION_DAYS)
    engine.start(np.array(split_seeds(Split.VALIDATION, VALIDATION_DAYS)))
    policy: Any = make_policy(name, scenario)
    policy.play(engine)
    return float(np.mean([engine.kpis(e)["reward"] for e in range(VALIDATION_DAYS)]))


# --- all of it ----------------------------------------------------------------------------------

RATIOS = (
    ("ours, plain, / SB3 defaults", "ours_same", "sb3"),
    ("ours, its defaults, / SB3 defaults", "ours", "sb3"),
    ("ours, plain, / SB3 at the same batch and ratio", "ours_same", "sb3_same"),
    ("the same, SB3 with as many environments", "ours_same", "sb3_same_32"),
    ("ours, plain, / MaskablePPO defaults", "ours_same", "ppo"),
)


def measure(
    wanted: Sequence[str] | None,
    *,
    seconds: float,
    turns: int,
    limit_s: float,
    margin: float,
    say: Callable[..., None],
) -> dict[str, Any]:
    """Time all rows in turns, then let each race to the score; says Markdown tables.

    Raises:
        UsageError: If a row is unknown.
    """
    chosen = rows()
    known = [row.key for row in chosen]
    if unknown := set(wanted or ()) - set(known):
        raise UsageError(f"--rows: no row {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    if wanted is not None:
        chosen = [row for row in chosen if row.key in wanted]
    torch.set_num_threads(1)
    measured = speeds(chosen, seconds, turns)
    say("| learner | environment steps/s | transitions learned/s | spread |")
    say("|---|---|---|---|")
    for row in chosen:
        steps, learned = np.array(measured[row.key]).T
        low, high = np.percentile(learned, (25, 75))
        say(
            f"| {row.title} | {np.median(steps):,.0f} | {np.median(learned):,.0f} "
            f"| {low:,.0f} to {high:,.0f} |"
        )
    say(
        f"\nMedians and quartiles of {turns} slices of {seconds:g} s of processor time; "
        "the rows take turns.\n"
    )
    say("| transitions learned per second, in the same turn | ratio | spread |\n|---|---|---|")
    ratios = {}
    for title, ours, theirs in RATIOS:
        if ours in measured and theirs in measured:
            each = [a[1] / b[1] for a, b in zip(measured[ours], measured[theirs], strict=True)]
            ratios[title] = each
            low, high = np.percentile(each, (25, 75))
            say(f"| {title} | {np.median(each):.2f} | {low:.2f} to {high:.2f} |")
    result: dict[str, Any] = {
        "rows": [
            {
                "key": row.key, "title": row.title,
                "steps_per_s": [s for s, _ in measured[row.key]],
                "learned_per_s": [n for _, n in measured[row.key]],
            }
            for row in chosen
        ],
        "ratios": ratios,
    }  # fmt: skip
    if limit_s > 0:
        result["race"] = _races(chosen, limit_s, margin, say)
    return result


def _races(
    chosen: list[Row], limit_s: float, margin: float, say: Callable[..., None]
) -> dict[str, Any]:
    scores = {name: baseline(name) for name in ("random", "nearest")}
    goal = scores["nearest"] - margin
    say(
        f"\nRace to {goal:.1f} on {VALIDATION_DAYS} validation days: `nearest` has "
        f"{scores['nearest']:.1f}, `random` {scores['random']:.1f}; at most {limit_s:g} s of "
        f"processor time or {RACE_STEPS:,} steps, one seed.\n"
    )
    say("| learner | processor time to the score | environment steps | best score seen |")
    say("|---|---|---|---|")
    races = {}
    for row in chosen:
        result = race(row, goal, limit_s, RACE_STEPS)
        races[row.key] = asdict(result)
        reached = "not reached" if result.reached_s is None else f"{result.reached_s:.0f} s"
        best = "-" if result.best is None else f"{result.best:.1f}"
        say(f"| {row.title} | {reached} | {result.steps:,} | {best} |")
    return {"goal": goal, "margin": margin, "baselines": scores, "rows": races}
