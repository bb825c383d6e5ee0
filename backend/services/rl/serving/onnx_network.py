"""The pair network in ONNX Runtime: `dqn_matching` where that is the backend, or the GPU's way.

The graph holds normalisation, network and mask: rows of the ``rows`` observation and edges go in,
Q on the reward scale comes out, for any number of states, drivers and bookings. Edges and matching
stay in compiled code.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.rl.errors import BundleError, UsageError
from services.rl.policies.base import Decision, DecisionSet
from services.rl.policies.kernels import assign
from services.rl.simulation.days import DaySource
from services.rl.simulation.edges import NUM_EDGE, edges_of_rows
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState

from .bundle import Bundle

FLOAT, INT8_TENSOR, INT8_CHANNEL, INT8_MIXED = (
    "onnx_fp32",
    "onnx_int8_tensor",
    "onnx_int8_channel",
    "onnx_int8_mixed",
)
MODEL_FILES: Final = {
    FLOAT: "model.onnx",
    INT8_TENSOR: "model_int8_tensor.onnx",
    INT8_CHANNEL: "model_int8_channel.onnx",
    INT8_MIXED: "model_int8_mixed.onnx",
}
"""File of each ONNX backend in a bundle; mixed: the layers that decide stay float."""

_SHOWN: Final = 20


def open_session(path: Path, device: str = "cpu") -> Any:
    """An ONNX Runtime session of one thread, which several threads may run at once.

    More threads inside a session lengthen the tail of a decision far more than they shorten its
    middle, and spinning would take the second core from the other requests.

    Raises:
        UsageError: If the device is not there.
        BundleError: If the file is no graph that this runtime can load.
    """
    import onnxruntime as ort  # type: ignore[import-untyped]

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise UsageError(
                "device cuda: the installed onnxruntime has no CUDA provider (install "
                "onnxruntime-gpu), or use --device cpu"
            )
        providers.insert(0, "CUDAExecutionProvider")
    elif device != "cpu":
        raise UsageError(f"unknown device {device!r}: choose cpu or cuda")
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the runtime's errors have no base of their own
        raise BundleError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error


class OnnxPairPolicy:
    """`dqn_matching` on an ONNX graph; decides as `EdgePolicy` does, up to rounding.

    Attributes:
        name: ``dqn_matching``.
        note: Where its numbers come from.
    """

    def __init__(
        self,
        session: Any,
        scenario: Scenario,
        *,
        hold_back_min: float,
        source: DaySource | None = None,
        note: str = "",
    ) -> None:
        self.name = "dqn_matching"
        self.note = note
        self._session = session
        self._scenario = scenario
        self._hold_back = hold_back_min
        self._source = source
        self._host: HostWorld | None = None

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,  # noqa: ARG002 - the protocol's
        budget_ms: float | None = None,  # noqa: ARG002
        rng: np.random.Generator | None = None,  # noqa: ARG002
    ) -> DecisionSet:
        """Decide one epoch: rounds of optimal matching on the network's edges."""
        host = self._host_for(len(state.booking_ids))
        host.load(state)
        decisions: list[Decision] = []
        while (score := self._scores(host)) is not None:
            match = assign(score)
            rows = host.open_rows()
            taken = [(int(i), d) for d, i in enumerate(match) if i >= 0 and score[d, i] > 0.0]
            # In the compiled policy's order: the last open position first.
            for i, d in sorted(taken, reverse=True):
                decisions.append(Decision(int(rows[i]), d, float(score[d, i])))
                host.engine.commit(0, d, int(rows[i]))
            host.engine.observe(0)
        return DecisionSet(tuple(decisions))

    def _host_for(self, bookings: int) -> HostWorld:
        shown = _SHOWN if self._host is None else self._host.layout.max_bookings
        if self._host is None or bookings > shown:
            while shown < bookings:
                shown *= 2
            self._host = HostWorld(
                self._scenario, max_bookings=shown, observation="rows", source=self._source
            )
        return self._host

    def _scores(self, host: HostWorld) -> npt.NDArray[np.float64] | None:
        """Advantage of each pair over deferring ``(N, M)``; None if no pair beats it."""
        inputs, driver, booking = pair_inputs(host, self._hold_back)
        if not driver.size:
            return None
        q = self._session.run(None, inputs)[0][0]
        drivers, count = inputs["edges"].shape[1:3]
        score = np.zeros((drivers, count))
        score[driver, booking] = q[1 + driver * count + booking] - q[0]
        return np.maximum(score, 0.0) if (score > 0.0).any() else None


def pair_inputs(
    host: HostWorld, hold_back_min: float
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What the graph takes for the loaded state, and driver and booking position of each pair.

    Returns:
        ``context (1, C)``, ``drivers (1, N, F)``, ``bookings (1, M, G)``, ``edges (1, N, M, E)``
        and ``mask (1, N * M + 1)``, M being the bookings that are open; then ``(P,)`` each.
    """
    layout, out = host.layout, host.engine.out
    drivers, shown = layout.num_drivers, layout.max_bookings
    rows, mask = out.observation[:1], out.mask[:1] != 0
    room = int(mask.sum()) + 1
    edges = np.empty((room, NUM_EDGE), dtype=np.float32)
    driver, booking = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    ends = np.zeros(1, dtype=np.int64)
    nothing = np.full(1, -1, dtype=np.int64)
    edges_of_rows(
        *host.memory, rows, mask, drivers, shown, hold_back_min, nothing, ends, edges, driver,
        booking,
    )  # fmt: skip
    pairs = int(ends[0])
    driver, booking = driver[:pairs], booking[:pairs]
    parts = layout.unpack(rows)
    count = max(1, min(shown, len(host.open_rows())))
    dense = np.zeros((1, drivers, count, NUM_EDGE), dtype=np.float32)
    dense[0, driver, booking] = edges[:pairs]
    considered = np.zeros((1, drivers * count + 1), dtype=np.bool_)
    considered[0, 0] = True
    considered[0, 1 + driver * count + booking] = True
    inputs = {
        "context": parts["context"],
        "drivers": parts["drivers"],
        "bookings": np.ascontiguousarray(parts["bookings"][:, :count]),
        "edges": dense,
        "mask": considered,
    }
    return inputs, driver, booking


def onnx_pair_policy(
    bundle: Bundle, scenario: Scenario, source: DaySource | None, device: str
) -> OnnxPairPolicy:
    """The policy of a bundle whose backend is an ONNX graph; on a GPU always the float one.

    Raises:
        BundleError: If the backend is unknown or its file missing.
        UsageError: If the device is not there.
    """
    backend = FLOAT if device == "cuda" else bundle.manifest.backend
    if backend not in MODEL_FILES:
        raise BundleError(f"bundle {bundle.path}: unknown backend {backend!r}; export it again")
    return OnnxPairPolicy(
        open_session(bundle.file(MODEL_FILES[backend]), device),
        scenario,
        hold_back_min=float(bundle.manifest.network["hold_back_min"]),
        source=source,
        note=f"bundle {bundle.version}, {backend} on {device}",
    )
