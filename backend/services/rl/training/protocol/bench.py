"""One configuration from fit to verdict numbers: fitted, played on judging days, exported.

Each configuration has a folder of its own: a model folder (``model/``, as every policy takes it)
and ``result.json``, written last. A run that is resumed takes what carries the same mark.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from services.rl.errors import PolicyError, TrainingError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.runner import DayBook, evaluate_policy
from services.rl.policies.model_files import MODEL_FILE, ModelManifest, read_manifest
from services.rl.q_networks import PairQNetwork
from services.rl.serving.onnx_network import FLOAT, open_session
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Split

from ..backends import REFERENCE, Row, pair_contest
from ..checkpoints import write_checkpoint
from ..export import TorchSession, export_float, graph_of, load_graph
from ..export_run import FIRST_DAY
from ..task import DispatchTask
from .dataset import DataOrder, DataSet, document_sha256, raw_and_prepared, sources_sha256
from .fit import Epoch, Fit, FitOptions, fit, side_by_side
from .prepared import PreparedSet, dense
from .throughput import LOOP, States, epoch_seconds

POLICY: Final = "dqn_matching"
RESULT_FILE: Final = "result.json"
SPEEDS_FILE: Final = "throughput.json"
LOADER_FILE: Final = "loader.json"
_LOADER_DAYS = 16
_PARITY_STATES = 512
_BEARING = ("training/protocol/fit.py", "training/protocol/bench.py", "training/export.py",
            "training/config.py")  # fmt: skip

Say = Callable[[str], None]


@dataclass
class Bench:
    """What all configurations of a run share.

    Attributes:
        order: Of the data set.
        data: The set.
        book: Judging days: validation days that no loss is computed on.
        folder: ``results/<name>``.
        source: Real days.
        provenance: Command, commit, machine: for manifests.
        resume: Take finished configurations of the same mark.
        reused: Names of those that were taken.
    """

    order: DataOrder
    data: DataSet
    book: DayBook
    folder: Path
    source: DaySource | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    reused: list[str] = field(default_factory=list)

    def hashes(self) -> dict[str, str]:
        """What two rows of one table must have in common."""
        return {
            "data": self.data.sha256,
            "splits": document_sha256(self.data.labels),
            "judging_days": document_sha256([self.book.scenario.sha256, list(self.book.labels)]),
        }

    def result(self, name: str, options: FitOptions, say: Say = lambda _: None) -> dict[str, Any]:
        """Fit, play and export a configuration, or take what an interrupted run left.

        A configuration whose numbers break is recorded as failed.
        """
        folder = self.folder / "configurations" / name
        mark = self._mark(options)
        if self.resume and (found := self._finished(folder, mark)) is not None:
            self.reused.append(name)
            say(f"{name}: done before")
            return found
        document: dict[str, Any] = {
            "name": name,
            "mark": mark,
            "hashes": self.hashes(),
            "options": options.document(),
            "reward_scale": self.order.config.hyperparameters.reward_scale,
        }
        try:
            document |= {"state": "done", **self._measured(name, folder, options, say)}
        except (TrainingError, PolicyError) as error:  # broken numbers, found in either room
            document |= {"state": "failed", "reason": str(error)}
            say(f"{name}: failed: {error}")
        write_text(folder / RESULT_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n")
        return document

    def _mark(self, options: FitOptions) -> str:
        code = sources_sha256(_BEARING)
        return document_sha256([self.hashes(), options.document(), self.data.key, code])

    def _finished(self, folder: Path, mark: str) -> dict[str, Any] | None:
        found = _stored(folder / RESULT_FILE)
        if found.get("mark") != mark:
            return None
        if found.get("state") == "done":
            read_manifest(folder / "model")  # hashes are checked: a damaged model is refused
        return found

    def _measured(self, name: str, folder: Path, options: FitOptions, say: Say) -> dict[str, Any]:
        h = self.order.config.hyperparameters
        network = self._network(options.seed)

        def on_epoch(epoch: Epoch) -> None:
            if epoch.number % 10 == 0 or epoch.number == 1:
                say(f"{name}: epoch {epoch.number}, val_total {epoch.val_total:.4f}, "
                    f"{epoch.seconds:.2f} s")  # fmt: skip

        done = fit(network, self.data, options, h.reward_scale, on_epoch)
        self._write_model(folder / "model", done, network.architecture())
        result = evaluate_policy(POLICY, self.book, model=folder / "model")
        parity = export_parity(folder / "model", self.data.val)
        say(f"{name}: val_total {done.best_epoch.val_total:.4f} (epoch {done.best} of "
            f"{len(done.epochs)}), reward {result.kpi('reward').mean():.1f} a day")  # fmt: skip
        return {
            "fit": done.document(),
            "kpis": {kpi: result.kpi(kpi).tolist() for kpi in KPIS},
            "refused": result.refused,
            "parity": parity,
        }

    def _write_model(self, folder: Path, done: Fit, architecture: dict[str, Any]) -> None:
        config = self.order.config
        manifest = ModelManifest(
            network=architecture,
            environment=DispatchTask(self.order.scenario, self.source).record(config),
            reward_scale=config.hyperparameters.reward_scale,
            decision=POLICY,
            step=done.best * done.states,
            metrics={**done.best_epoch.val, "val_total": done.best_epoch.val_total},
            provenance={
                **self.provenance,
                "teacher": self.order.teacher,
                "data_sha256": self.data.sha256,
                "options": done.options.document(),
            },
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, manifest, done.weights, lambda _: None)

    def speeds(self, configurations: Mapping[str, FitOptions], say: Say) -> dict[str, float]:
        """How many times faster a pass is than the first configuration's, by turns in one run.

        The median over turns of the ratio in each; kept beside the results for ``--resume``.
        """
        path = self.folder / "configurations" / SPEEDS_FILE
        mark = document_sha256([[n, self._mark(o)] for n, o in configurations.items()])
        found = _stored(path) if self.resume else {}
        if found.get("mark") != mark:
            say(f"passes of {', '.join(configurations)} take turns")
            scale = self.order.config.hyperparameters.reward_scale
            seconds = side_by_side(self._network, self.data.train, configurations, scale)
            found = {"mark": mark, "seconds": seconds}
            write_text(path, json.dumps(found, indent=1) + "\n")
        first = np.array(next(iter(found["seconds"].values())))
        return {
            name: float(np.median(first / np.array(spent)))
            for name, spent in found["seconds"].items()
        }

    def loader(self, options: FitOptions, threads: int, say: Say) -> dict[str, float]:
        """How many times shorter a pass is than with features computed batch by batch.

        Args:
            options: Of all ways.
            threads: See `throughput.epoch_seconds`.
            say: Told what happens.
        """
        path = self.folder / "configurations" / LOADER_FILE
        mark = document_sha256([self._mark(options), threads, _LOADER_DAYS])
        found = _stored(path) if self.resume else {}
        if found.get("mark") != mark:
            say("passes with features made per batch, made before, and on all threads take turns")
            states = States(*raw_and_prepared(self.order, _LOADER_DAYS))
            options = replace(options, batch_size=min(options.batch_size, len(states.shown)))
            scale = self.order.config.hyperparameters.reward_scale
            seconds = epoch_seconds(self._network, states, options, scale, threads=threads)
            found = {"mark": mark, "seconds": seconds}
            write_text(path, json.dumps(found, indent=1) + "\n")
        loop = np.array(found["seconds"][LOOP])
        return {way: float(np.median(loop / np.array(s))) for way, s in found["seconds"].items()}

    def _network(self, seed: int = 0) -> PairQNetwork:
        engine = Engine(
            self.order.scenario, 1,
            max_bookings=self.order.config.environment.max_bookings,
            observation="rows", days=list(self.book.days) or None, source=self.source,
        )  # fmt: skip
        return self.order.network(engine, seed)

    def backends(self, name: str, days: int, states: int, say: Say) -> list[Row]:
        """Torch and ONNX Runtime on a finished configuration: same states, same days.

        Raises:
            TrainingError: If it cannot be exported.
        """
        model = self.folder / "configurations" / name / "model"
        graph, manifest = load_graph(model)
        with tempfile.TemporaryDirectory() as scratch:
            path = export_float(graph, Path(scratch) / "model.onnx")
            sessions = {
                FLOAT: open_session(path),
                REFERENCE: TorchSession(graph, graph.inputs),
            }
            weights = (model / MODEL_FILE).stat().st_size
            sizes = {FLOAT: path.stat().st_size, REFERENCE: weights, "numba": weights}
            book = self.book if len(self.book) <= days else _first(self.book, days)
            contest = pair_contest(model, manifest, book, sessions, sizes, limit=states)
            return contest.rows(turns=4, say=say)


def _stored(path: Path) -> dict[str, Any]:
    """A document that an earlier run left; empty if there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def judging_book(order: DataOrder, source: DaySource | None, days: int) -> DayBook:
    """Validation days to play: beyond those of the losses where days are sampled."""
    first = FIRST_DAY if source is None else 0
    return day_book(order.scenario, source, Split.VALIDATION, days, first)


def _first(book: DayBook, days: int) -> DayBook:
    return DayBook(
        book.scenario, book.labels[:days], book.seeds[:days], book.days[:days], book.source
    )


def export_parity(model: Path, part: PreparedSet) -> dict[str, Any]:
    """Torch against ONNX Runtime on states of a part, evenly spaced.

    Two actions whose Q differ by less than the graphs do are one decision.
    """
    graph, manifest = load_graph(model)
    rows = torch.linspace(0, len(part) - 1, min(_PARITY_STATES, len(part))).long()
    feed = dense(part, rows)
    with tempfile.TemporaryDirectory() as scratch:
        path = export_float(
            graph_of(graph.network, manifest.reward_scale), Path(scratch) / "m.onnx"
        )
        found = np.asarray(open_session(path).run(None, feed)[0])
    expected = TorchSession(graph, graph.inputs).run(None, feed)[0]
    considered = feed["mask"]
    difference = np.where(considered, np.abs(found - expected), 0.0)
    relative = float((difference / np.maximum(1.0, np.abs(expected))).max())
    at = np.arange(len(rows))
    lost = expected.max(axis=1) - expected[at, found.argmax(axis=1)]
    same = lost <= 2 * difference.max(axis=1)
    return {
        "states": len(rows),
        "relative": relative,
        "same_decisions": float(same.mean()),
    }


def refuse_mixed(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The hashes that all rows of a table share.

    Raises:
        TrainingError: If two rows differ; naming both and the hash.
    """
    first = results[0]
    for other in results[1:]:
        for name, value in first["hashes"].items():
            if other["hashes"].get(name) != value:
                raise TrainingError(
                    f"{first['name']} and {other['name']} cannot stand in one table: their hash of "
                    f"{name} differs, {value} and {other['hashes'].get(name)}"
                )
    hashes: dict[str, str] = dict(first["hashes"])
    return hashes


def write_text(path: Path, text: str) -> None:
    """Write a file, atomically.

    Raises:
        TrainingError: If it cannot be written.
    """
    hidden = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text(text, encoding="utf-8")
        hidden.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error
