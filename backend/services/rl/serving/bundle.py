"""Model bundles: one folder with all that deciding needs, under a manifest with its hashes.

A bundle holds the scenario (rules, travel, reward), the weights of the tuned ``matching`` that
answers when the model does not, and the model itself; serving reads nothing else. Its version is
a hash of its content: two exports of the same thing are the same version, and a bundle that was
altered is refused.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from services.rl.errors import AtmrError, BundleError
from services.rl.policies.baselines import matching_weights
from services.rl.policies.edge_policies import linear_weights
from services.rl.policies.model_files import (
    MANIFEST,
    MODEL_FILE,
    file_sha256,
    read_manifest,
    settled,
)
from services.rl.policies.planner_values import VALUES_FILE, planner_values
from services.rl.policies.tuning import PROFIT
from services.rl.simulation.observation import LAYOUT_VERSION
from services.rl.simulation.scenarios import (
    FittedDemand,
    ReplayDemand,
    Scenario,
    load_scenario,
    save_scenario,
)

BUNDLE_SCHEMA: Final = 1
PLANNER, NETWORK, MATCHING, LINEAR = "planner", "dqn_matching", "matching", "matching_linear"
KINDS: Final = (NETWORK, PLANNER, MATCHING, LINEAR)
"""What a bundle can hold."""

SCENARIO_FILE: Final = "scenario.yaml"
EXPECTED_DEMAND: Final = "expected_demand.npz"
"""Where a planner looks ahead by what recent days were like, instead of by the scenario's demand.

Not the scenario's own model: what is expected is learned, and changes every night, while the
world's travel, rules and weights, and so its hash, stay."""
MATCHING_FILE: Final = "matching.json"
LINEAR_FILE: Final = "matching_linear.json"
NETWORK_FOLDER: Final = "network"
POLICY_FILE: Final = "policy.json"
_NEEDED: Final = {
    PLANNER: (VALUES_FILE,),
    NETWORK: (f"{NETWORK_FOLDER}/{MANIFEST}", f"{NETWORK_FOLDER}/{MODEL_FILE}"),
    MATCHING: (),
    LINEAR: (LINEAR_FILE,),
}
"""Files of each kind, beside those that every bundle has."""


@dataclass(frozen=True)
class BundleManifest:
    """What a bundle says of itself.

    Attributes:
        kind: One of `KINDS`.
        layout: Version of the observation layout that the model reads.
        network: Architecture of the network; empty where there is none.
        scenario: Name of the scenario.
        scenario_hash: Its hash; states of another scenario are refused.
        code_commit: Of the code that exported it; None outside a repository.
        backend: What runs the network: ``numba``, or a name of `onnx_network.MODEL_FILES`; empty
            where there is none.
        budget_ms: Time that a decision of this model may take where nobody says otherwise.
        metrics: Scores on validation days, measured latencies.
        parent: Version of the bundle it was trained from, if any.
        files: SHA-256 of each file, by its path inside the folder.
        schema: Version of this manifest.
    """

    kind: str
    layout: int
    network: Mapping[str, Any]
    scenario: str
    scenario_hash: str
    code_commit: str | None = None
    backend: str = ""
    budget_ms: float = 50.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    schema: int = BUNDLE_SCHEMA

    @property
    def sha256(self) -> str:
        """Hash of all of it; the files are in it by theirs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def version(self) -> str:
        """Content hash, 12 hexadecimal digits: the model's name wherever it is spoken of."""
        return self.sha256[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"version": self.version, "sha256": self.sha256, **asdict(self)}


@dataclass(frozen=True)
class Bundle:
    """A checked bundle; see `read_bundle`.

    Attributes:
        path: Its folder.
        manifest: What it says of itself.
    """

    path: Path
    manifest: BundleManifest

    @property
    def version(self) -> str:
        """See `BundleManifest.version`."""
        return self.manifest.version

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.manifest.kind

    @cached_property
    def scenario(self) -> Scenario:
        """The world that it decides in.

        Raises:
            BundleError: If it is not the scenario that the manifest names.
        """
        return _scenario_of(self.path, self.manifest)

    @cached_property
    def policy(self) -> dict[str, Any]:
        """Settings of the policy, from ``policy.json``; such as ``moves`` of the planner."""
        return _json_object(self.path / POLICY_FILE)

    def file(self, name: str) -> Path:
        """Where a file of the bundle lies.

        Raises:
            BundleError: If the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.path} holds no {name}; export it again")
        return self.path / name


# --- reading -------------------------------------------------------------------------------------


def read_bundle(folder: Path) -> Bundle:
    """A bundle, with all its files checked against their hashes.

    Raises:
        BundleError: If it is no bundle, incomplete, damaged, altered, or made for another layout
            or schema; in one sentence that names the file.
    """
    path = folder / MANIFEST
    raw = _json_object(path)
    if "kind" not in raw:
        raise BundleError(
            f"{folder} holds no bundle: its {MANIFEST} names no kind; export it first"
        )
    if raw.get("schema") != BUNDLE_SCHEMA:
        raise BundleError(
            f"{path}: schema {raw.get('schema')!r} is not {BUNDLE_SCHEMA}; export it again"
        )
    manifest = _parsed(raw, path)
    if manifest.layout != LAYOUT_VERSION:
        raise BundleError(
            f"{path}: the model reads observation layout {manifest.layout}, this code writes "
            f"{LAYOUT_VERSION}; train and export it again"
        )
    for name, expected in manifest.files.items():
        _check_file(folder, name, expected)
    for name in (SCENARIO_FILE, MATCHING_FILE, POLICY_FILE, *_NEEDED[manifest.kind]):
        if name not in manifest.files:
            raise BundleError(f"{path} names no {name}, which a {manifest.kind} bundle needs")
    bundle = Bundle(folder, manifest)
    _ = bundle.scenario, bundle.policy
    return bundle


def _json_object(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent} holds no bundle: there is no {path.name} (expected a folder such as "
            "models/<version>)"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{path} is no JSON object")
    return raw


def _parsed(raw: dict[str, Any], path: Path) -> BundleManifest:
    fields = {name: value for name, value in raw.items() if name not in ("version", "sha256")}
    try:
        manifest = BundleManifest(**fields)
        version, sha256 = manifest.version, manifest.sha256
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path} is not a bundle's manifest: {error}") from error
    if (raw.get("version"), raw.get("sha256")) != (version, sha256):
        raise BundleError(f"{path} is not as it was written (its SHA-256 differs)")
    if manifest.kind not in KINDS:
        raise BundleError(f"{path}: kind {manifest.kind!r} is none of {', '.join(KINDS)}")
    for name in ("files", "network", "metrics"):
        if not isinstance(getattr(manifest, name), dict):
            raise BundleError(f"{path}: {name} is no JSON object")
    budget = manifest.budget_ms
    if not isinstance(budget, int | float) or not 0.0 < budget < float("inf"):
        raise BundleError(f"{path}: budget_ms is {budget!r}, expected a number above 0")
    return manifest


def _check_file(folder: Path, name: str, expected: Any) -> None:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name or str(inside) != name:
        raise BundleError(f"{folder / MANIFEST} names a file outside its folder: {name!r}")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path} is a link that leads out of the bundle")
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"{path} is missing or cannot be read") from error
    if found != expected:
        raise BundleError(
            f"{path} is not the file that was exported (its SHA-256 differs): truncated or altered"
        )


def _scenario_of(folder: Path, manifest: BundleManifest) -> Scenario:
    path = folder / SCENARIO_FILE
    try:
        scenario = load_scenario(path)
    except AtmrError as error:
        raise BundleError(f"{path} cannot be used: {error}") from error
    if scenario.sha256 != manifest.scenario_hash:
        raise BundleError(
            f"{path}: the scenario's hash here is {scenario.sha256}, the bundle was made for "
            f"{manifest.scenario_hash}; export it again with this code"
        )
    return scenario


# --- writing -------------------------------------------------------------------------------------


def write_bundle(
    folder: Path,
    kind: str,
    scenario: Scenario,
    *,
    model: Path | None = None,
    extra: Mapping[str, Path] | None = None,
    policy: Mapping[str, Any] | None = None,
    backend: str | None = None,
    budget_ms: float = 50.0,
    metrics: Mapping[str, Any] | None = None,
    parent: str | None = None,
    code_commit: str | None = None,
    transfer: bool = False,
) -> Bundle:
    """Write a bundle: all of it or, where anything fails, nothing.

    Args:
        folder: Where it will lie; it must not exist.
        kind: One of `KINDS`.
        scenario: The world it will decide in.
        model: Folder of the trained network or values; None takes the values filed for the
            scenario.
        extra: Further files, by their path in the bundle; such as ONNX graphs.
        policy: Settings of the policy (``moves``).
        backend: What runs the network; default ``numba`` where there is one.
        budget_ms: See `BundleManifest`.
        metrics: See `BundleManifest`; a network's own are added.
        parent: Version that it was trained from.
        code_commit: Of this code.
        transfer: Admit values that were fitted on another scenario.

    Raises:
        BundleError: If the kind is unknown, the folder exists or cannot be written.
        PolicyError: If there is no such model, or it is damaged.
    """
    if kind not in KINDS:
        raise BundleError(f"unknown kind of bundle {kind!r}: choose {', '.join(KINDS)}")
    if folder.exists():
        raise BundleError(f"{folder} exists; a bundle is never overwritten")
    with _appearing(folder) as hidden:
        found: dict[str, Any] = dict(metrics or {})
        network: Mapping[str, Any] = {}
        _write_scenario(scenario, hidden)
        weights = PROFIT if scenario.rules.decide_once else matching_weights(scenario)[0]
        weights.save(hidden / MATCHING_FILE)
        if kind == LINEAR:
            linear_weights(scenario)[0].save(hidden / LINEAR_FILE)
        elif kind == PLANNER:
            values, _, _ = planner_values(scenario, model, transfer=transfer)
            values.save(hidden / VALUES_FILE)
        elif kind == NETWORK:
            network, scores = _copy_network(model, hidden / NETWORK_FOLDER)
            found = {**scores, **found}
        for name, path in (extra or {}).items():
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, hidden / name)
        _write_json(hidden / POLICY_FILE, dict(policy or {}))
        manifest = BundleManifest(
            kind=kind,
            layout=LAYOUT_VERSION,
            network=dict(network),
            scenario=scenario.name,
            scenario_hash=scenario.sha256,
            code_commit=code_commit,
            backend=("numba" if kind == NETWORK else "") if backend is None else backend,
            budget_ms=float(budget_ms),
            metrics=found,
            parent=parent,
            files=hashes_of(hidden),
        )
        _write_json(hidden / MANIFEST, manifest.to_json())
        read_bundle(hidden)  # what cannot be served must not come into being
    return read_bundle(folder)


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path inside it."""
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder that takes its place when it is complete; otherwise it leaves no trace."""
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        hidden.mkdir(parents=True)
        yield hidden
        hidden.rename(folder)
    except OSError as error:
        raise BundleError(
            f"bundle {folder} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _write_scenario(scenario: Scenario, folder: Path) -> None:
    """The scenario with the demand model it needs; real days are not needed for deciding."""
    demand = scenario.demand
    if isinstance(demand, FittedDemand):
        model = Path(demand.model)
        copied = folder / f"demand_model{model.suffix}"
        try:
            shutil.copyfile(model, copied)
        except OSError as error:
            raise BundleError(f"demand model {model} cannot be read: {error.strerror}") from error
        demand = demand.model_copy(update={"model": str(copied.resolve())})
    elif isinstance(demand, ReplayDemand):
        demand = demand.model_copy(update={"dataset": "real-days-stay-where-they-are"})
    save_scenario(scenario.model_copy(update={"demand": demand}), folder / SCENARIO_FILE)


def _copy_network(model: Path | None, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The network alone of a checkpoint, under a manifest of its own; architecture and scores."""
    if model is None:
        raise BundleError("a dqn_matching bundle needs a trained network: give its folder")
    manifest = read_manifest(model)
    if manifest.network.get("network") != "pair":
        raise BundleError(
            f"{model} holds a {manifest.network.get('network')!r} network; dqn_matching needs a "
            "pair network"
        )
    folder.mkdir()
    shutil.copyfile(settled(model) / MODEL_FILE, folder / MODEL_FILE)
    # A rotating checkpoint also names its replay buffer and optimiser, which serving leaves out.
    alone = manifest.with_files({MODEL_FILE: manifest.files[MODEL_FILE]})
    _write_json(folder / MANIFEST, alone.to_json())
    return manifest.network, manifest.metrics
