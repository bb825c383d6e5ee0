"""What every kind of model learns by each night: `Learner.update`, and what all of them share.

A learner starts from the champion, plays the simulator brought up to date by recent days, mixes in
what really happened, and returns a bundle for the served scenario. It works in a folder of its own:
killed at any point, the same update goes on from what lies there, and another one starts anew.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from services.rl.data.experience import Experience
from services.rl.data.recalibrated import Simulator
from services.rl.errors import BundleError, TrainingError
from services.rl.serving.bundle import NETWORK, PLANNER, Bundle, read_bundle

Say = Callable[[str], None]

IDENTITY_FILE: Final = "update.json"
BUNDLE_FOLDER: Final = "bundle"


@dataclass(frozen=True)
class PlannerBudget:
    """Of the evolution of the planner's values.

    Attributes:
        generations: Of the evolution.
        population: Candidates per generation.
        days: Days that every candidate of a generation plays.
        moves: Of the search; fewer than in use.
        sigma: Spread of the first generation: small, for the champion is near.
        check_days: Days that decide what is kept.
        check_moves: Of the search then.
    """

    generations: int = 12
    population: int = 12
    days: int = 24
    moves: int = 1_000
    sigma: float = 0.2
    check_days: int = 100
    check_moves: int = 3_000


@dataclass(frozen=True)
class NetworkBudget:
    """Of imitation and reinforcement learning.

    Attributes:
        steps: Environment steps of reinforcement learning.
        envs: Environments stepped side by side.
        teacher_days: Days on which the teacher shows what to do.
        dagger_days: Days on which the learner acts, and the teacher says what it would have done.
        epochs: Passes over what was shown.
        teacher_moves: Of the teacher's search.
        judged_days: Validation days of the training scenario.
        judge_every: Vector steps between evaluations.
        patience: Evaluations without a new best after which it stops.
        value_updates: First updates that move V alone.
    """

    steps: int = 24_000
    envs: int = 32
    teacher_days: int = 60
    dagger_days: int = 60
    epochs: int = 4
    teacher_moves: int = 1_500
    judged_days: int = 128
    judge_every: int = 125
    patience: int = 4
    value_updates: int = 150


@dataclass(frozen=True)
class Budget:
    """What one update may spend.

    Attributes:
        minutes: After so long it ends with the best it has found.
        production_share: Of what is learned from, that which really happened: real days for the
            planner, logged experiences for the network.
        planner: See there.
        network: See there.
        export_days: Days on which the bundle is played as served.
        export_states: States on which backends are compared.
        measured: Whether the fastest backend is looked for; else the compiled one is taken.
        threads: Candidates played at once.
    """

    minutes: float = 20.0
    production_share: float = 0.25
    planner: PlannerBudget = PlannerBudget()
    network: NetworkBudget = NetworkBudget()
    export_days: int = 3
    export_states: int = 150
    measured: bool = True
    threads: int = 2


TINY: Final = Budget(
    planner=PlannerBudget(
        generations=1, population=4, days=4, moves=50, check_days=4, check_moves=50
    ),
    network=NetworkBudget(
        steps=64, envs=4, teacher_days=1, dagger_days=1, epochs=1, teacher_moves=50, judged_days=4,
        judge_every=8, patience=2, value_updates=2,
    ),
    export_days=1,
    export_states=5,
    measured=False,
    threads=1,
)  # fmt: skip
"""Touches every part; learns nothing. For tests and rehearsals."""


class Learner(Protocol):
    """Improves one kind of model."""

    kind: str

    def update(
        self,
        bundle: Bundle | None,
        simulator: Simulator,
        experiences: Iterable[Experience],
        *,
        folder: Path,
        budget: Budget,
        seed: int,
        say: Say = lambda _: None,
    ) -> Bundle:
        """A bundle of this kind, learned from the champion on.

        Args:
            bundle: The champion, of whatever kind; None: there is none.
            simulator: The served world, and the same with recent demand.
            experiences: What really happened; read once.
            folder: Of this update alone; see `begin_update`.
            budget: What it may spend.
            seed: Of everything random.
            say: Told what happens.

        Returns:
            A bundle of the served scenario under ``folder / "bundle"``, ``parent`` the champion.

        Raises:
            TrainingError: If nothing can be learned.
            BundleError: If the bundle cannot be written, or falls back when played.
        """
        ...


@dataclass
class Taken:
    """Experiences that an update has learned from.

    Attributes:
        by_source: ``policy``, ``human``, ``reconstructed``: how many.
        left_out: Reason -> how many could not be used.
    """

    by_source: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def take(self, experience: Experience) -> None:
        """Count one in."""
        self.by_source[experience.source] = self.by_source.get(experience.source, 0) + 1

    def leave(self, reason: str) -> None:
        """Count one out."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    @property
    def total(self) -> int:
        """Learned from."""
        return sum(self.by_source.values())


def identity_of(
    kind: str, champion: Bundle | None, simulator: Simulator, budget: Budget, seed: int, **more: Any
) -> dict[str, Any]:
    """What makes an update the same one."""
    spent = {k: v for k, v in asdict(budget).items() if k not in ("minutes", "threads")}
    return {
        "kind": kind,
        "champion": None if champion is None else champion.version,
        "scenario_hash": simulator.scenario.sha256,
        "training_scenario_hash": simulator.training_scenario.sha256,
        "real_days": [day.label for day in simulator.days],
        "budget": json.loads(json.dumps(spent)),
        "seed": seed,
        **more,
    }


def begin_update(folder: Path, identity: Mapping[str, Any], say: Say) -> Bundle | None:
    """Make the folder ready; what an update of another identity left there goes.

    Returns:
        The bundle, where this very update was finished before.

    Raises:
        TrainingError: If the folder cannot be written.
    """
    path = folder / IDENTITY_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError):
        found = None
    if found != identity:
        try:
            if folder.exists():
                say(f"{folder.name}: begins anew")
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            hidden = path.with_name(f".{path.name}.partial")
            hidden.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
            hidden.replace(path)
        except OSError as error:
            raise TrainingError(f"{folder} cannot be written: {error.strerror}") from error
        return None
    try:
        bundle = read_bundle(folder / BUNDLE_FOLDER)
    except BundleError:
        shutil.rmtree(folder / BUNDLE_FOLDER, ignore_errors=True)
        say(f"{folder.name}: goes on")
        return None
    say(f"{folder.name}: was finished before ({bundle.version})")
    return bundle


def nightly_metrics(
    simulator: Simulator, champion: Bundle | None, taken: Taken, share: float, **more: Any
) -> dict[str, Any]:
    """Where a bundle comes from, for its manifest."""
    return {
        "nightly": {
            "champion": None if champion is None else champion.version,
            "champion_kind": None if champion is None else champion.kind,
            "training_scenario_hash": simulator.training_scenario.sha256,
            "demand_sha256": simulator.demand_sha256,
            "demand": {
                name: simulator.changes[name]
                for name in ("bookings_per_day", "half_life_days", "served_share")
                if name in simulator.changes
            },
            "real_days": [day.label for day in simulator.days],
            "experiences": taken.by_source,
            "experiences_left_out": taken.left_out,
            "production_share": share,
            **more,
        }
    }


def out_of_time(minutes: float) -> Callable[[], bool]:
    """Whether so many minutes have passed since now."""
    end = time.monotonic() + 60.0 * minutes
    return lambda: time.monotonic() > end


def learner_of(
    kind: str, *, fallback: Path | None = None, teacher: Bundle | None = None
) -> Learner:
    """The learner of a kind.

    Args:
        kind: ``planner`` or ``dqn_matching``.
        fallback: Folder of a network to start from where the champion is none.
        teacher: A planner's bundle that teaches the network.

    Raises:
        TrainingError: If nobody learns that kind.
    """
    if kind == PLANNER:
        from .planner_learner import PlannerLearner

        return PlannerLearner()
    if kind == NETWORK:
        from .network_learner import DqnMatchingLearner

        return DqnMatchingLearner(fallback=fallback, teacher=teacher)
    raise TrainingError(
        f"nobody learns models of kind {kind!r}: choose {PLANNER} or {NETWORK} "
        "(matching and matching_linear are tuned by tune_matching.py)"
    )


def taught_kinds(champion: Bundle | None) -> tuple[str, ...]:
    """What is updated each night: the champion's kind where it can be, and the network.

    The planner first: it is the network's teacher.
    """
    own = champion.kind if champion is not None and champion.kind in (PLANNER, NETWORK) else PLANNER
    return tuple(dict.fromkeys((*((PLANNER,) if own == PLANNER else ()), NETWORK)))
