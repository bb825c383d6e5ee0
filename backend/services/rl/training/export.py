"""From a checkpoint to graphs that run without Torch: ONNX, and INT8 of it.

One graph holds normalisation, network and mask, for any number of states, drivers and bookings:
rows of the ``rows`` observation and edges in, Q on the reward scale out, `FLOOR` where an action
is not considered. The dense form computes every pair, valid or not, so that shapes stay regular.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from services.rl.errors import TrainingError
from services.rl.policies.model_files import ModelManifest
from services.rl.q_networks import (
    FLOOR,
    NUM_BOOKING,
    NUM_DRIVER,
    PairArchitecture,
    PairQNetwork,
    PreparedPairs,
    QNetwork,
)
from services.rl.serving.onnx_network import (
    FLOAT,
    INT8_CHANNEL,
    INT8_MIXED,
    INT8_TENSOR,
    MODEL_FILES,
)
from services.rl.simulation.edges import NUM_EDGE
from services.rl.simulation.observation import CONTEXT, ROW_BOOKING, ROW_DRIVER

from .checkpoints import read_model

OPSET: Final = 20
PAIR_INPUTS: Final = ("context", "drivers", "bookings", "edges", "mask")
FLAT_INPUTS: Final = ("state", "mask")

Feed = Mapping[str, npt.NDArray[Any]]


class PairGraph(nn.Module):
    """`PairQNetwork` on dense inputs, as it is exported.

    Args:
        network: Trained; its parameters are used, not copied.
        scale: What Q is divided by: the reward scale of training.
    """

    inputs = PAIR_INPUTS

    def __init__(self, network: PairQNetwork, scale: float) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(
        self, context: Tensor, drivers: Tensor, bookings: Tensor, edges: Tensor, mask: Tensor
    ) -> Tensor:
        """Q ``(B, N * M + 1)``.

        Args:
            context: ``(B, C)``.
            drivers: ``(B, N, F)``, whole rows of `ROW_DRIVER`.
            bookings: ``(B, M, G)``, whole rows of `ROW_BOOKING`.
            edges: ``(B, N, M, E)``, zero where a pair is not considered.
            mask: ``(B, N * M + 1)`` bool, the actions considered.
        """
        net = self.network
        nothing = context[:0]
        prepared = PreparedPairs(
            context,
            drivers[..., :NUM_DRIVER],
            bookings[..., :NUM_BOOKING],
            drivers[..., NUM_DRIVER : NUM_DRIVER + 1],
            bookings[..., :1],
            *[nothing] * 5,
        )
        encoded = net.encode(prepared)
        value = net.state_value(*encoded)[:, None]
        mixed = (
            net.pair_driver(prepared.drivers)[:, :, None]
            + net.pair_booking(prepared.bookings)[:, None]
            + net.pair_context(encoded[2])[:, None, None]
            + net.pair_edge(edges)
        )
        hidden = torch.relu(net.pair_hidden(torch.relu(mixed)))
        pairs = (net.pair_score(hidden) + net.edge_score(edges)).flatten(1)
        advantage = torch.cat([net.wait_advantage(encoded[2])[:, None], pairs], dim=1)
        if net.shape.dueling:
            valid = mask.to(advantage.dtype)
            value = value - (advantage * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
        return torch.where(mask, (value + advantage) / self.scale, FLOOR)


class FlatGraph(nn.Module):
    """`QNetwork` with its mask, as it is exported."""

    inputs = FLAT_INPUTS

    def __init__(self, network: QNetwork, scale: float) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    def forward(self, state: Tensor, mask: Tensor) -> Tensor:
        """Q ``(B, A)`` from states ``(B, S)`` and masks ``(B, A)`` bool."""
        return torch.where(mask, self.network(state, mask) / self.scale, FLOOR)


Graph = PairGraph | FlatGraph


def load_graph(folder: Path) -> tuple[Graph, ModelManifest]:
    """The graph of a checkpoint or model folder.

    Raises:
        TrainingError: If the parameters are not those of the network the manifest names.
        PolicyError: If the folder is damaged.
    """
    manifest, parameters = read_model(folder)
    shape = manifest.network
    network: PairQNetwork | QNetwork
    if shape.get("network") == "pair":
        sizes = {name: shape[name] for name in PairArchitecture.__dataclass_fields__}
        network = PairQNetwork(
            shape["num_drivers"], shape["max_bookings"], None, PairArchitecture(**sizes)
        )
    else:
        network = QNetwork(
            shape["state_dim"],
            shape["num_actions"],
            tuple(shape["hidden"]),
            dueling=shape["dueling"],
        )
    try:
        network.load_state_dict(parameters)
    except (RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{folder}: the parameters are not of the network the manifest names: "
            f"{' '.join(str(error).split())}"
        ) from error
    return graph_of(network, manifest.reward_scale), manifest


def graph_of(network: PairQNetwork | QNetwork, reward_scale: float) -> Graph:
    """A network as it is exported; it may have been trained or not."""
    network.eval().requires_grad_(False)
    if isinstance(network, QNetwork):
        return FlatGraph(network, reward_scale).eval()
    if not network.shape.edges:  # the graph adds them in any case
        network.pair_edge.weight.zero_()
        network.edge_score.weight.zero_()
    return PairGraph(network, reward_scale).eval()


# --- ONNX ----------------------------------------------------------------------------------------


def export_onnx(graph: Graph, folder: Path) -> dict[str, Path]:
    """Write the float graph and its INT8 variants; returns the file of each ONNX backend.

    Raises:
        TrainingError: If the exporter fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {backend: folder / name for backend, name in MODEL_FILES.items()}
    try:
        _write_float(graph, files[FLOAT])
        _quantise(files[FLOAT], files[INT8_TENSOR], per_channel=False)
        _quantise(files[FLOAT], files[INT8_CHANNEL], per_channel=True)
        leave = _deciding_layers(graph, files[FLOAT])
        _quantise(files[FLOAT], files[INT8_MIXED], per_channel=True, leave=leave)
    except (RuntimeError, ValueError, OSError) as error:
        raise TrainingError(f"the network cannot be exported to ONNX: {error}") from error
    return files


def export_float(graph: Graph, path: Path) -> Path:
    """Write the float graph alone.

    Raises:
        TrainingError: If the exporter fails.
    """
    try:
        _write_float(graph, path)
    except (RuntimeError, ValueError, OSError) as error:
        raise TrainingError(f"the network cannot be exported to ONNX: {error}") from error
    return path


def _write_float(graph: Graph, path: Path) -> None:
    axis = torch.export.Dim
    shapes: dict[str, dict[int, Any]]
    example: Sequence[Tensor]
    if isinstance(graph, PairGraph):
        # Sizes that differ from each other and from 1, so that no axis is taken for another.
        b, n, m = 2, 3, 5
        example = (
            torch.rand(b, len(CONTEXT)),
            torch.rand(b, n, len(ROW_DRIVER)),
            torch.rand(b, m, len(ROW_BOOKING)),
            torch.rand(b, n, m, NUM_EDGE),
            torch.ones(b, n * m + 1, dtype=torch.bool),
        )
        batch = axis.DYNAMIC
        shapes = {
            "context": {0: batch},
            "drivers": {0: batch, 1: axis.DYNAMIC},
            "bookings": {0: batch, 1: axis.DYNAMIC},
            "edges": {0: batch, 1: axis.DYNAMIC, 2: axis.DYNAMIC},
            "mask": {0: batch, 1: axis.DYNAMIC},
        }
    else:
        net = graph.network
        example = (torch.rand(2, net.state_dim), torch.ones(2, net.num_actions, dtype=torch.bool))
        shapes = {"state": {0: axis.DYNAMIC}, "mask": {0: axis.DYNAMIC}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its own parts
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # "torchvision is not installed"
        program = torch.onnx.export(
            graph,
            tuple(example),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=["q"],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), include_initializers=True, external_data=False)
    _strip(path)


def _strip(path: Path) -> None:
    """Leave out what running does not need: traces of this machine's sources, noted shapes."""
    import onnx

    model = onnx.load(str(path))
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    # Quantisation contradicts the noted shapes: it would refuse its own result.
    del model.graph.value_info[:]
    onnx.save(model, str(path))


def _quantise(source: Path, target: Path, *, per_channel: bool, leave: Sequence[str] = ()) -> None:
    """INT8 weights, activations quantised as they come (onnxruntime's dynamic quantisation)."""
    from onnxruntime import quantization  # type: ignore[import-untyped]

    quantise: Any = quantization.quantize_dynamic
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a pre-processing step, on the root logger
    try:
        quantise(
            str(source),
            str(target),
            per_channel=per_channel,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=list(leave),
        )
    finally:
        root.setLevel(level)


def _deciding_layers(graph: Graph, path: Path) -> list[str]:
    """Nodes that must stay float for the decisions to stay: found by leaving out one at a time.

    In the pair network the linear score of an edge: its numbers of order ten lie beside others of
    order a hundredth, one INT8 step for all of them. In the flat one all but the largest matrix:
    on a trained network 99.5 % of decisions stayed, with the first layer in INT8 too 97.9 %. That
    is no promise to pass the gate, which also looks at rewards.
    """
    import onnx

    nodes = onnx.load(str(path)).graph
    shapes = {i.name: list(i.dims) for i in nodes.initializer}
    linear = [n for n in nodes.node if n.op_type in ("MatMul", "Gemm")]
    if isinstance(graph, PairGraph):
        linear = [n for n in linear if [NUM_EDGE, 1] in [shapes.get(i) for i in n.input]]
    else:
        largest = max(linear, key=lambda n: max(math.prod(shapes.get(i, [0])) for i in n.input))
        linear = [n for n in linear if n is not largest]
    # Quantisation renames a Gemm when it takes it apart.
    return [name for n in linear for name in (n.name, f"{n.name}_MatMul")]


# --- Torch, for comparison -----------------------------------------------------------------------


class TorchSession:
    """A Torch module behind the interface of an ONNX Runtime session, on the CPU.

    Args:
        graph: What runs.
        inputs: Names of its inputs, in order.
    """

    def __init__(self, graph: nn.Module, inputs: Sequence[str]) -> None:
        self._graph = graph
        self._inputs = tuple(inputs)

    def run(self, _outputs: None, feed: Feed) -> list[npt.NDArray[np.float32]]:
        """Q of a batch, in a list of one."""
        with torch.inference_mode():
            q: Tensor = self._graph(*[torch.from_numpy(feed[name]) for name in self._inputs])
        return [q.numpy()]


def torch_sessions(graph: Graph) -> dict[str, TorchSession]:
    """``torch_fp32`` and ``torch_int8`` (Torch's dynamic quantisation, which it has deprecated)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantise: Any = torch.ao.quantization.quantize_dynamic
        small = quantise(graph, {nn.Linear}, dtype=torch.qint8)
    return {
        "torch_fp32": TorchSession(graph, graph.inputs),
        "torch_int8": TorchSession(small, graph.inputs),
    }


def torch_sizes(graph: Graph, folder: Path) -> dict[str, int]:
    """Bytes of the two Torch forms as ``torch.save`` writes them."""
    sizes = {}
    for name, session in torch_sessions(graph).items():
        path = folder / f"{name}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(session._graph.state_dict(), path)
        sizes[name] = path.stat().st_size
        path.unlink()
    return sizes


def one_thread() -> None:
    """Torch on one thread, as everything else is measured."""
    torch.set_num_threads(1)
