"""Bundles: self-contained, of a version that is their content, refused when anything differs."""

import json
import shutil

import pytest

from services.rl.errors import BundleError, PolicyError
from services.rl.serving.bundle import KINDS, read_bundle, write_bundle
from services.rl.simulation.scenarios import load_scenario

from .models import SMALL, bundle_of, scattered_network


@pytest.fixture
def network(bundles, tmp_path):
    """A copy of a bundle, to be spoilt."""
    return shutil.copytree(bundles["dqn_matching"].path, tmp_path / "bundle")


def rewritten(folder, **changes):
    """The manifest with other fields, its own hash made to fit."""
    from services.rl.serving.bundle import BundleManifest, _write_json

    raw = json.loads((folder / "manifest.json").read_text())
    raw = {k: v for k, v in raw.items() if k not in ("version", "sha256")} | changes
    _write_json(folder / "manifest.json", BundleManifest(**raw).to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_holds_all_that_deciding_needs(bundles, kind):
    bundle = bundles[kind]
    assert bundle.scenario.sha256 == SMALL.sha256 == bundle.manifest.scenario_hash
    assert {"scenario.yaml", "matching.json", "policy.json"} <= set(bundle.manifest.files)
    assert len(bundle.version) == 12
    assert read_bundle(bundle.path).version == bundle.version


def test_the_version_is_the_content(bundles, tmp_path):
    again = bundle_of("dqn_matching", tmp_path)
    assert again.version == bundles["dqn_matching"].version
    assert again.version != bundles["other"].version
    tuned = write_bundle(tmp_path / "b", "planner", SMALL, transfer=True, policy={"moves": 9})
    assert tuned.version != bundles["planner"].version
    assert tuned.policy == {"moves": 9}


def test_scores_of_the_network_are_in_the_manifest(bundles):
    assert bundles["dqn_matching"].manifest.metrics == {"score": 1.0}


def test_a_bundle_is_never_overwritten(bundles):
    with pytest.raises(BundleError, match="never overwritten"):
        write_bundle(bundles["matching"].path, "matching", SMALL)


def test_nothing_is_left_of_a_bundle_that_cannot_be_written(tmp_path):
    with pytest.raises(BundleError, match="needs a trained network"):
        write_bundle(tmp_path / "b", "dqn_matching", SMALL)
    with pytest.raises(PolicyError, match="no planner values"):
        write_bundle(tmp_path / "b", "planner", SMALL)
    with pytest.raises(BundleError, match="unknown kind"):
        write_bundle(tmp_path / "b", "oracle", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_leaves_its_buffer_behind(tmp_path):
    from services.rl.policies.model_files import ModelManifest, file_sha256
    from services.rl.serving.bundle import _write_json

    model = scattered_network(tmp_path / "model")
    (model / "ring_state.npy").write_bytes(b"large")
    raw = json.loads((model / "manifest.json").read_text())
    raw.pop("sha256")
    raw["files"]["ring_state.npy"] = file_sha256(model / "ring_state.npy")
    _write_json(model / "manifest.json", ModelManifest(**raw).to_json())
    bundle = write_bundle(tmp_path / "b", "dqn_matching", SMALL, model=model)
    assert "network/model.safetensors" in bundle.manifest.files
    assert not any("ring_state" in name for name in bundle.manifest.files)


def test_a_fitted_demand_travels_with_the_bundle(tmp_path):
    from services.rl.simulation.scenarios import file_sha256, parse_scenario

    model = tmp_path / "history" / "demand.npz"
    SMALL.demand_model().save(model)
    raw = SMALL.model_dump(mode="json")
    raw["demand"] = {"kind": "fitted", "model": str(model), "model_sha256": file_sha256(model)}
    fitted = parse_scenario({**raw, "name": "fitted"}, source="test")
    bundle = write_bundle(tmp_path / "b", "planner", fitted, model=None, transfer=True)
    shutil.rmtree(model.parent)
    moved = read_bundle((tmp_path / "b").rename(tmp_path / "elsewhere"))
    assert moved.version == bundle.version
    assert moved.scenario.demand_model().bookings_mean == pytest.approx(
        SMALL.demand_model().bookings_mean
    )
    assert str(tmp_path) not in (moved.path / "scenario.yaml").read_text()


@pytest.mark.parametrize(
    "name", ["network/model.safetensors", "scenario.yaml", "matching.json", "policy.json"]
)
def test_an_altered_or_missing_file_is_refused(network, name):
    path = network / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match=rf"{name} is not the file that was exported"):
        read_bundle(network)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        read_bundle(network)


def test_an_altered_manifest_is_refused(network):
    path = network / "manifest.json"
    path.write_text(path.read_text().replace('"budget_ms": 50.0', '"budget_ms": 5000.0'))
    with pytest.raises(BundleError, match="is not as it was written"):
        read_bundle(network)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"schema": 99}, "schema 99 is not 1"),
        ({"layout": 99}, "reads observation layout 99"),
        ({"kind": "oracle"}, "kind 'oracle' is none of"),
        ({"budget_ms": 0}, "budget_ms is 0"),
        ({"files": {}}, "names no scenario.yaml"),
        ({"files": {"../secret": "0"}}, "outside its folder"),
        ({"files": {"/etc/passwd": "0"}}, "outside its folder"),
        ({"files": {"network/../../secret": "0"}}, "outside its folder"),
        ({"files": []}, "files is no JSON object"),
        ({"scenario_hash": "0" * 64}, "scenario's hash here is"),
    ],
)
def test_a_bundle_for_something_else_is_one_sentence(network, changes, finding):
    rewritten(network, **changes)
    with pytest.raises(BundleError, match=finding) as raised:
        read_bundle(network)
    assert "\n" not in str(raised.value)


def test_a_link_out_of_the_bundle_is_refused(network, tmp_path):
    outside = tmp_path / "outside.json"
    shutil.move(network / "matching.json", outside)
    (network / "matching.json").symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        read_bundle(network)


def test_what_is_no_bundle_is_one_sentence(tmp_path, network):
    for folder, finding in (
        (tmp_path / "nowhere", "there is no manifest.json"),
        (scattered_network(tmp_path / "model"), "its manifest.json names no kind"),
    ):
        with pytest.raises(BundleError, match=finding):
            read_bundle(folder)
    for text in ("{", "[]", '{"kind": 1, "schema": 1, "more": 2}'):
        (network / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match="manifest"):
            read_bundle(network)


def test_a_flat_network_is_no_matcher(tmp_path):
    model = scattered_network(tmp_path / "model")
    raw = json.loads((model / "manifest.json").read_text())
    raw.pop("sha256")
    raw["network"]["network"] = "flat"
    (model / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="needs a pair network"):
        write_bundle(tmp_path / "b", "dqn_matching", load_scenario("geneva_small"), model=model)
