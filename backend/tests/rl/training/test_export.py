"""Graphs: the trained network's values, for any sizes; what decides stays what was trained."""

import numpy as np
import pytest
import torch

from services.rl.errors import BundleError, TrainingError, UsageError
from services.rl.policies.edge_policies import pair_policy
from services.rl.policies.model_files import MODEL_FILE, read_manifest
from services.rl.q_networks import QNetwork
from services.rl.serving.bundle import read_bundle, write_bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.onnx_network import (
    FLOAT,
    INT8_CHANNEL,
    INT8_MIXED,
    MODEL_FILES,
    OnnxPairPolicy,
    open_session,
    pair_inputs,
)
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import load_scenario
from services.rl.training import export
from services.rl.training.export import (
    TorchSession,
    export_onnx,
    graph_of,
    load_graph,
    torch_sessions,
)
from services.rl.training.export_run import export_model, kind_of, markdown, measure_bundle
from tests.rl.pair_states import network_of, states_of
from tests.rl.serving.models import SMALL, scattered_network, states_of_days

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return scattered_network(tmp_path_factory.mktemp("model") / "best")


@pytest.fixture(scope="module")
def graphs(model, tmp_path_factory):
    """The files of every ONNX backend of the scattered network."""
    return export_onnx(load_graph(model)[0], tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def bundle(model, graphs, tmp_path_factory):
    """A bundle whose backend is the float graph."""
    extra = {path.name: path for path in graphs.values()}
    folder = tmp_path_factory.mktemp("bundles") / "onnx"
    return write_bundle(folder, "dqn_matching", SMALL, model=model, extra=extra, backend=FLOAT)


def dense(layout, rows, prepared):
    """Inputs of the dense graph for a prepared batch."""
    parts = layout.unpack(rows)
    edges = np.zeros((len(rows), layout.num_drivers, layout.max_bookings, 28), dtype=np.float32)
    where = (prepared.state.numpy(), prepared.driver.numpy(), prepared.booking.numpy())
    edges[where] = prepared.edges.numpy()
    return {
        "context": np.ascontiguousarray(parts["context"]),
        "drivers": np.ascontiguousarray(parts["drivers"]),
        "bookings": np.ascontiguousarray(parts["bookings"]),
        "edges": edges,
        "mask": prepared.mask.numpy(),
    }


@pytest.mark.parametrize("sizes", [{}, {"dueling": True}, {"edges": False}])
def test_the_dense_form_gives_the_networks_values(sizes):
    engine, rows, masks = states_of(load_scenario("geneva"))
    net = network_of(engine, **sizes)
    prepared = net.prepare(rows, masks)
    expected = net.values(prepared).detach().numpy() / 0.1
    graph = graph_of(net, 0.1)
    found = TorchSession(graph, graph.inputs).run(None, dense(engine.layout, rows, prepared))[0]
    considered = prepared.mask.numpy()
    np.testing.assert_allclose(found[considered], expected[considered], atol=1e-4)
    assert (found[~considered] == -1e9).all()


@pytest.mark.parametrize("world", ["geneva", "geneva_small"])
def test_the_graph_serves_any_number_of_states_drivers_and_bookings(model, graphs, world):
    session = open_session(graphs[FLOAT])
    reference = torch_sessions(load_graph(model)[0])["torch_fp32"]
    scenario = load_scenario(world)
    host = HostWorld(scenario, max_bookings=20, observation="rows")
    for state in states_of_days(scenario, 6):
        host.load(state)
        feed, _, _ = pair_inputs(host, 60.0)
        for batch in (1, 3):
            many = {name: np.repeat(array, batch, axis=0) for name, array in feed.items()}
            q, expected = session.run(None, many)[0], reference.run(None, many)[0]
            assert q.shape == (batch, feed["mask"].shape[1])
            np.testing.assert_allclose(q, expected, atol=1e-4)


def test_decisions_on_a_graph_are_those_of_compiled_code(model, graphs):
    compiled = pair_policy("dqn_matching", model, SMALL)
    policy = OnnxPairPolicy(open_session(graphs[FLOAT]), SMALL, hold_back_min=60.0)
    made = 0
    for state in states_of_days(SMALL, 60):
        expected, found = compiled.decide(state).decisions, policy.decide(state).decisions
        assert [(d.driver, d.booking) for d in found] == [(d.driver, d.booking) for d in expected]
        np.testing.assert_allclose([d.score for d in found], [d.score for d in expected], atol=1e-3)
        made += len(found)
    assert made > 20


def test_more_bookings_than_ever_shown_are_all_seen(model, graphs):
    busy = SMALL.resized(num_drivers=12, bookings_per_day=300)
    compiled = pair_policy("dqn_matching", model, busy)
    policy = OnnxPairPolicy(open_session(graphs[FLOAT]), busy, hold_back_min=60.0)
    state = max(states_of_days(busy, 20), key=lambda s: len(s.booking_ids))
    assert len(state.booking_ids) > 40
    assert [(d.driver, d.booking) for d in policy.decide(state).decisions] == [
        (d.driver, d.booking) for d in compiled.decide(state).decisions
    ]


def test_the_mixed_int8_graph_keeps_the_layer_that_decides(graphs):
    import onnx

    def quantised(backend):
        nodes = onnx.load(str(graphs[backend])).graph.node
        return sum(node.op_type == "MatMulInteger" for node in nodes)

    assert quantised(FLOAT) == 0
    assert quantised(INT8_MIXED) == quantised(INT8_CHANNEL) - 1  # the edges' linear score


def test_no_trace_of_the_machine_is_in_a_graph(graphs):
    for path in graphs.values():
        content = path.read_bytes()
        assert b".py" not in content
        assert b"site-packages" not in content


def test_the_flat_network_is_exported_with_its_mask(tmp_path):
    import onnx

    torch.manual_seed(0)
    graph = graph_of(QNetwork(122, 201, (64, 48, 32), dueling=True), 0.1)
    files = export_onnx(graph, tmp_path)
    rng = np.random.default_rng(0)
    feed = {
        "state": rng.normal(size=(7, 122)).astype(np.float32),
        "mask": rng.random((7, 201)) < 0.5,
    }
    expected = torch_sessions(graph)["torch_fp32"].run(None, feed)[0]
    for name, path in files.items():
        q = open_session(path).run(None, feed)[0]
        assert (q[~feed["mask"]] == -1e9).all()
        limit = 1e-4 if name == FLOAT else 3.0
        assert np.abs(q - expected)[feed["mask"]].max() < limit
    names = [n.op_type for n in onnx.load(str(files[INT8_MIXED])).graph.node]
    assert names.count("MatMulInteger") == 1  # the largest matrix alone


def test_an_engine_serves_a_graph(bundle, model):
    engine = InferenceEngine(SMALL, bundle)
    engine.warm_up()
    compiled = pair_policy("dqn_matching", model, SMALL)
    for state in states_of_days(SMALL, 10):
        answer = engine.decide(state, budget_ms=60_000.0)
        assert (answer.policy, answer.fallback_reason) == ("dqn_matching", None)
        assert [(d.driver, d.booking) for d in answer.decisions.decisions] == [
            (d.driver, d.booking) for d in compiled.decide(state).decisions
        ]
    engine.close()


def test_a_gpu_that_is_not_there_is_one_sentence(bundle, monkeypatch):
    # Also on a machine that has one.
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match="has no CUDA provider"):
        InferenceEngine(SMALL, bundle, device="cuda")


def test_an_unknown_device_is_one_sentence(bundle):
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        InferenceEngine(SMALL, bundle, device="tpu")


def test_a_bundle_without_its_graph_is_refused(model, tmp_path):
    made = write_bundle(tmp_path / "b", "dqn_matching", SMALL, model=model, backend=FLOAT)
    with pytest.raises(BundleError, match=r"holds no model\.onnx"):
        InferenceEngine(SMALL, made)
    made = write_bundle(tmp_path / "c", "dqn_matching", SMALL, model=model, backend="tpu")
    with pytest.raises(BundleError, match="unknown backend 'tpu'"):
        InferenceEngine(SMALL, made)


def test_a_file_that_is_no_graph_is_one_sentence(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match="cannot be loaded") as raised:
        open_session(tmp_path / "model.onnx")
    assert "\n" not in str(raised.value)


def test_parameters_of_another_network_are_one_sentence(model, tmp_path):
    import json
    import shutil

    from services.rl.policies.model_files import ModelManifest

    folder = shutil.copytree(model, tmp_path / "m")
    raw = json.loads((folder / "manifest.json").read_text())
    raw.pop("sha256")
    raw["network"]["hidden"] = 32
    (folder / "manifest.json").write_text(json.dumps(ModelManifest(**raw).to_json()))
    with pytest.raises(TrainingError, match="not of the network the manifest names"):
        load_graph(folder)


# --- from a model to a checked bundle ------------------------------------------------------------


def test_a_network_becomes_a_checked_bundle(model, graphs, tmp_path, monkeypatch):
    # Exported once for all tests of this file: it takes seconds.
    monkeypatch.setattr(export, "export_onnx", lambda _graph, _folder: graphs)
    made, report = export_model(
        tmp_path / "b", SMALL, model=model, days=3, states=12, turns=1, memory=False
    )
    rows = {row.name: row for row in report.backends}
    assert set(rows) == {"numba", "torch_fp32", "torch_int8", *MODEL_FILES}
    assert rows["numba"].passes and rows[FLOAT].passes
    assert rows[FLOAT].max_difference <= 1e-4
    assert rows[FLOAT].agreement == rows["numba"].agreement == 1.0
    assert not rows["torch_fp32"].servable
    assert made.manifest.backend == report.chosen in rows
    assert set(MODEL_FILES.values()) <= set(read_bundle(made.path).manifest.files)
    assert not report.fallbacks
    assert f"**{report.chosen}**" in markdown(report, made)
    assert report.passes and not report.failures


def test_a_model_that_loses_to_the_fallback_does_not_pass(tmp_path):
    """Such as one that lets every patient wait."""
    waits = scattered_network(tmp_path / "model", wait_score=1e3)
    made = write_bundle(tmp_path / "b", "dqn_matching", SMALL, model=waits)
    report = measure_bundle(made, days=4)
    assert not report.passes
    assert "a day less than tuned matching" in report.failures[0]


def test_a_planner_gets_the_moves_that_fit(tmp_path):
    made, report = export_model(
        tmp_path / "b", SMALL, days=2, states=6, budget_ms=1e6, transfer=True
    )
    assert (made.kind, made.policy["moves"]) == ("planner", 20_000)
    assert set(report.moves) == {20_000} and not report.fallbacks
    made, report = export_model(
        tmp_path / "c", SMALL, days=2, states=6, budget_ms=1e-3, transfer=True
    )
    assert made.policy["moves"] == min(report.moves) == 1_500


def test_what_is_no_model_is_one_sentence(tmp_path):
    with pytest.raises(BundleError, match="holds no model that can be served"):
        kind_of(tmp_path)
    with pytest.raises(BundleError, match="needs a trained network"):
        export_model(tmp_path / "b", SMALL, kind="dqn_matching")
    assert not (tmp_path / "b").exists()


def test_a_manifest_of_a_network_says_how_it_was_trained(bundle, model):
    assert bundle.manifest.network == read_manifest(model).network
    assert f"network/{MODEL_FILE}" in bundle.manifest.files
