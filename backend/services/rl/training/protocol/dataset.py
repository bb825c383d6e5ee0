"""The data set of the protocol: a teacher's days, prepared once and kept in memory.

Every state of whole days carries what the teacher would commit there and the discounted return
that followed until the day's end. The features of its pairs are computed here and nowhere later:
a batch is index arithmetic on contiguous tensors (`prepared.PreparedSet.batch`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from services.rl.data.sources import open_source, split_labels, split_seeds
from services.rl.errors import TrainingError
from services.rl.paths import cache_dir
from services.rl.policies.registry import make_policy
from services.rl.q_networks import PairQNetwork
from services.rl.simulation.days import DaySource
from services.rl.simulation.edges import EDGES_VERSION
from services.rl.simulation.engine import Engine
from services.rl.simulation.observation import LAYOUT_VERSION
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.types import Day

from ..config import TEACHER, TrainingConfig
from ..imitation import Demonstrations, demonstrate
from ..streams import EngineStream, StreamStep
from ..task import pair_architecture
from .prepared import KEPT, CountedFeatures, PreparedSet, prepared

SCHEMA: Final = 1
_COHORT = 16  # days played side by side
_ROOT = Path(__file__).resolve().parents[2]
_BEARING = (
    "simulation",
    "policies",
    "q_networks.py",
    "training/imitation.py",
    "training/streams.py",
    "training/protocol/dataset.py",
    "training/protocol/prepared.py",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class DataOrder:
    """What a data set is made of.

    Attributes:
        scenario: The world.
        config: Discount, reward scale and timing, bookings shown, hold-back.
        teacher: A policy's name.
        days: Training days, the first of the split.
        val_days: Validation days, the first of the split.
        data_dir: Folder of real days.
    """

    scenario: Scenario
    config: TrainingConfig
    teacher: str = TEACHER
    days: int = 60
    val_days: int = 20
    data_dir: str | None = None

    def identity(self) -> dict[str, Any]:
        """Plain data that decides what the arrays are."""
        config = self.config
        h = config.hyperparameters
        return {
            "schema": SCHEMA,
            "scenario": self.scenario.name,
            "scenario_hash": self.scenario.sha256,
            "teacher": self.teacher,
            "days": self.days,
            "val_days": self.val_days,
            "seed": config.seed,
            "gamma": h.gamma,
            "reward_scale": h.reward_scale,
            "reward_timing": config.environment.reward_timing,
            "max_bookings": config.environment.max_bookings,
            "hold_back_min": h.hold_back_min,
            "layout_version": LAYOUT_VERSION,
            "edges_version": EDGES_VERSION,
            "code_hash": world_sha256(),
        }

    def key(self) -> str:
        """SHA-256 of `identity`."""
        return document_sha256(self.identity())

    def path(self) -> Path:
        """Where the set is kept."""
        return cache_dir() / "protocol" / f"{self.key()}.npz"

    def network(self, engine: Engine, seed: int) -> PairQNetwork:
        """A fresh network with `CountedFeatures` of the world."""
        layout = engine.layout
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return PairQNetwork(
                layout.num_drivers,
                layout.max_bookings,
                CountedFeatures(engine),
                pair_architecture(self.config),
            )


@dataclass(frozen=True)
class DataSet:
    """Training and validation part, and what they are.

    Attributes:
        train: Of training days.
        val: Of validation days.
        key: SHA-256 of what it was made of.
        sha256: Of the arrays.
        labels: Days of both parts.
    """

    train: PreparedSet
    val: PreparedSet
    key: str
    sha256: str
    labels: dict[str, list[str]]

    def document(self) -> dict[str, Any]:
        """For tables."""
        return {
            "key": self.key,
            "sha256": self.sha256,
            "splits_sha256": document_sha256(self.labels),
            "train_states": len(self.train),
            "train_pairs": self.train.num_pairs,
            "val_states": len(self.val),
            "val_pairs": self.val.num_pairs,
            "train_days": [self.labels["train"][0], self.labels["train"][-1]],
            "val_days": [self.labels["val"][0], self.labels["val"][-1]],
        }


# --- playing -------------------------------------------------------------------------------------


class _Cohort(EngineStream):
    """Given days played side by side, each once; what is played after a day's end is left out.

    The engine begins another day where one has ended; `alive` says which steps are of the first.
    """

    def __init__(self, order: DataOrder, labels: npt.NDArray[np.int64], days: list[Day] | None,
                 source: DaySource | None) -> None:  # fmt: skip
        config = order.config
        super().__init__(
            order.scenario,
            len(labels),
            observation="rows",
            max_bookings=config.environment.max_bookings,
            timing=config.environment.reward_timing,
            gamma=config.hyperparameters.gamma,
            seed=config.seed,
            days=days,
            source=source,
        )
        self.engine.start(labels)
        self.rewards: list[npt.NDArray[np.float64]] = []
        self.epochs: list[npt.NDArray[np.float64]] = []
        self.alive: list[npt.NDArray[np.bool_]] = []
        self._going = np.ones(len(labels), dtype=np.bool_)

    def step(self, actions: npt.NDArray[np.int64]) -> StreamStep:
        """See `Stream`; only the ends of first days are reported as episodes."""
        done = super().step(actions)
        self.rewards.append(done.reward)
        self.epochs.append(done.dt)
        self.alive.append(self._going.copy())
        first = self._going[done.ended]
        done.episodes[:] = [e for e, new in zip(done.episodes, first, strict=True) if new]
        self._going &= ~done.ended
        return done

    def returns(self, gamma: float) -> npt.NDArray[np.float64]:
        """Discounted reward from each step to its day's end, ``(T, E)``."""
        following = np.zeros(self.num_envs)
        found = np.zeros((len(self.rewards), self.num_envs))
        for t in range(len(self.rewards) - 1, -1, -1):
            following = self.rewards[t] + gamma ** self.epochs[t] * following
            following[~self.alive[t]] = 0.0
            found[t] = following
        return found


def played(
    order: DataOrder, labels: npt.NDArray[np.int64], days: list[Day] | None = None,
    source: DaySource | None = None, *, on_day: Callable[[int], None] = lambda _: None,
) -> tuple[Demonstrations, npt.NDArray[np.float32]]:  # fmt: skip
    """Whole days of the teacher: its commitments at every step, and scaled returns ``(K,)``.

    Args:
        order: Whose teacher, discount and scale.
        labels: Seeds, or rows of ``days``.
        days: Real days.
        source: Where they came from.
        on_day: Told how many days have been played, now and then.
    """
    h = order.config.hyperparameters
    teacher = make_policy(order.teacher, order.scenario, source=source, seed=order.config.seed)
    parts: list[tuple[Any, ...]] = []
    for at in range(0, len(labels), _COHORT):
        cohort = _Cohort(order, labels[at : at + _COHORT], days, source)
        shown = demonstrate(teacher, cohort, cohort.num_envs)
        alive = np.concatenate(cohort.alive)
        total = cohort.returns(h.gamma).ravel() * h.reward_scale
        parts.append((shown.state[alive], shown.mask[alive], shown.right[alive], total[alive]))
        on_day(at + cohort.num_envs)
    state, mask, right, total = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Demonstrations(state, mask, right), total.astype(np.float32)


# --- the file ------------------------------------------------------------------------------------


def data_set(
    order: DataOrder, say: Say = lambda _: None, *, expected: str | None = None
) -> DataSet:
    """The data set of an order: from its file, or played and written.

    Args:
        order: What it is made of.
        say: Told what happens.
        expected: SHA-256 that the arrays must have (a run that is resumed).

    Raises:
        TrainingError: If the arrays are not those expected.
        PolicyError: If there is no such teacher.
    """
    path = order.path()
    found: DataSet | None = None
    if path.is_file():
        try:
            found = _read(path, order.key())
            say(f"data set {path.name}: read")
        except TrainingError as error:
            if expected is not None:
                raise TrainingError(f"--resume: {error}; start anew without --resume") from error
            say(f"{error}; it is made again")
    if found is None:
        found = _made(order, say)
        _write(path, found)
    if expected is not None and found.sha256 != expected:
        raise TrainingError(
            f"--resume: the run began on data set {expected}, this one is {found.sha256}; "
            "start anew without --resume"
        )
    return found


def _made(order: DataOrder, say: Say) -> DataSet:
    source = open_source(order.scenario, order.data_dir)
    parts, labels = {}, {}
    for name, split, count in (
        ("train", Split.TRAIN, order.days),
        ("val", Split.VALIDATION, order.val_days),
    ):

        def on_day(done: int, name: str = name, count: int = count) -> None:
            say(f"{order.teacher} plays: {done} of {count} {name} days")

        _, _, parts[name], labels[name] = _part(order, split, count, source, on_day)
    return DataSet(parts["train"], parts["val"], order.key(), _arrays_sha256(parts, labels), labels)


def raw_and_prepared(
    order: DataOrder, days: int
) -> tuple[Demonstrations, npt.NDArray[np.float32], PreparedSet]:
    """The first training days as played, their scaled returns ``(K,)``, and prepared."""
    source = open_source(order.scenario, order.data_dir)
    return _part(order, Split.TRAIN, min(days, order.days), source, lambda _: None)[:3]


def _part(
    order: DataOrder, split: Split, count: int, source: DaySource | None,
    on_day: Callable[[int], None],
) -> tuple[Demonstrations, npt.NDArray[np.float32], PreparedSet, list[str]]:  # fmt: skip
    """A split's first days: as played, returns, prepared, and their labels."""
    days: list[Day] | None = None
    if source is None:
        seeds = split_seeds(split, count)
        labels = [f"seed:{seed}" for seed in seeds]
    else:
        labels = split_labels(source, split, count)
        days = [source.day(label) for label in labels]
        seeds = np.arange(len(days), dtype=np.int64)
    shown, returns = played(order, seeds, days, source, on_day=on_day)
    engine = Engine(
        order.scenario, 1, max_bookings=order.config.environment.max_bookings,
        observation="rows", days=days, source=source,
    )  # fmt: skip
    return shown, returns, prepared(order.network(engine, 0), shown, returns), labels


def _arrays_sha256(parts: Mapping[str, PreparedSet], labels: Mapping[str, list[str]]) -> str:
    digest = hashlib.sha256(json.dumps(labels, sort_keys=True).encode())
    for part in sorted(parts):
        for name, array in sorted(parts[part].arrays().items()):
            digest.update(f"{part}.{name} {array.dtype.str} {array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write(path: Path, found: DataSet) -> None:
    hidden = path.with_name(f".{path.stem}.partial.npz")
    arrays: dict[str, Any] = {
        f"{name}.{field}": array
        for name, part in (("train", found.train), ("val", found.val))
        for field, array in part.arrays().items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            hidden,
            key=np.array(found.key),
            sha256=np.array(found.sha256),
            labels=np.array(json.dumps(found.labels)),
            **arrays,
        )
        hidden.replace(path)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise TrainingError(f"data set {path} cannot be written: {error.strerror}") from error


def _read(path: Path, key: str) -> DataSet:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            labels = json.loads(str(stored["labels"]))
            parts = {
                part: PreparedSet.of({name: stored[f"{part}.{name}"] for name in (*KEPT, "edges")})
                for part in ("train", "val")
            }
            stated, of = str(stored["sha256"]), str(stored["key"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise TrainingError(f"data set {path} cannot be read: {error}") from error
    if of != key:
        raise TrainingError(f"data set {path} was made of {of}, not of {key}")
    sha = _arrays_sha256(parts, labels)
    if sha != stated:
        raise TrainingError(f"data set {path} is damaged: its arrays hash to {sha}, not {stated}")
    return DataSet(parts["train"], parts["val"], key, sha, labels)


def world_sha256() -> str:
    """SHA-256 over the sources that a data set depends on."""
    return sources_sha256(_BEARING)


@cache
def sources_sha256(names: tuple[str, ...]) -> str:
    """SHA-256 over sources of ``services/rl``, files or folders by name."""
    digest = hashlib.sha256()
    for name in names:
        path = _ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(_ROOT).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def document_sha256(document: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
