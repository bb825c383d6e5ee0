"""Bring a trained model near patients: export, check, register, promote, roll back.

Without a sub-command: the best checkpoint under results/ (by its validation score; among equals
the newest) becomes a bundle, is checked, and is registered as candidate. Promoting is a decision
of its own. Exit code 1: a check failed, nothing was registered.
"""

import argparse
import getpass
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config import Config
from models.database_url import described, parse_url
from scripts.rl.command import (
    FAILED,
    SUCCESS,
    command_parser,
    positive_float,
    positive_int,
    provenance,
    run,
    write_json,
)
from services.model_registry import open_registry
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import AtmrError, UsageError
from services.rl.policies.model_files import MANIFEST, read_manifest
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues
from services.rl.serving.bundle import KINDS, NETWORK, PLANNER, Bundle
from services.rl.serving.registry import ALIASES, Registry
from services.rl.simulation.scenarios import Scenario, load_scenario

EXAMPLES = """
deploy_agent.py
deploy_agent.py --model results/first/checkpoints/best --why "first real network"
deploy_agent.py --kind planner --scenario geneva
deploy_agent.py benchmark
deploy_agent.py promote --why "gate of 3 March passed"
deploy_agent.py promote 4bcc0b7efdd9 --company 7
deploy_agent.py rollback --why "late pickups since noon"
deploy_agent.py status
"""

COMMANDS = ("export", "benchmark", "promote", "rollback", "status")


@dataclass(frozen=True)
class Trained:
    """A model found under results/.

    Attributes:
        folder: Its ``checkpoints/best``.
        kind: Of the bundle it makes.
        scenario: Name of the scenario it was trained on.
        score: Mean reward on validation days.
        written: When, seconds since the epoch.
    """

    folder: Path
    kind: str
    scenario: str
    score: float
    written: float


def trained_models(results: Path) -> list[Trained]:
    """Servable models under ``results/*/checkpoints/best``; damaged ones are left out, aloud."""
    found = []
    for best in sorted(results.glob("*/checkpoints/best")):
        try:
            model = _trained(best)
        except (AtmrError, OSError, ValueError, KeyError, TypeError) as error:
            print(f"left out: {best}: {error}", file=sys.stderr)
            continue
        if model is not None:
            found.append(model)
    return found


def _trained(best: Path) -> Trained | None:
    if not best.is_dir():
        return None
    written = best.stat().st_mtime
    if (best / VALUES_FILE).is_file():
        values = PlannerValues.load(best / VALUES_FILE)
        score = values.provenance.get("score", values.provenance.get("reward"))
        judged = best.parents[1] / "eval" / "validation.json"
        if score is None and judged.is_file():
            score = json.loads(judged.read_text(encoding="utf-8"))["reward"]
        return Trained(best, PLANNER, values.scenario, float(score or 0.0), written)
    if (best / MANIFEST).is_file():
        manifest = read_manifest(best)
        if manifest.network.get("network") == "pair":
            scenario = str(manifest.environment.get("scenario"))
            return Trained(best, NETWORK, scenario, float(manifest.metrics["score"]), written)
    return None


def best_model(results: Path, scenario: str | None, kind: str | None) -> Trained:
    """The best of one scenario: that named, or that of the newest model.

    Scores of different scenarios are not comparable.

    Raises:
        UsageError: If there is none.
    """
    models = [
        m
        for m in trained_models(results)
        if scenario in (None, m.scenario) and kind in (None, m.kind)
    ]
    if not models:
        raise UsageError(
            f"there is no trained model{f' for {scenario}' if scenario else ''} under {results}: "
            "train one (train_dqn.py), name one with --model, or take the planner that is shipped: "
            "--kind planner --scenario geneva"
        )
    world = max(models, key=lambda m: m.written).scenario
    return max((m for m in models if m.scenario == world), key=lambda m: (m.score, m.written))


def _scenario(name: str, model: Path | None) -> Scenario:
    """The scenario a model was trained on: a built-in one, or the file its training kept."""
    try:
        return load_scenario(name)
    except AtmrError:
        for folder in [] if model is None else list(model.parents[:3]):
            if (folder / "scenario.yaml").is_file():
                return load_scenario(folder / "scenario.yaml")
        raise


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "command", nargs="?", choices=COMMANDS, default="export", help="default: export"
    )
    parser.add_argument("version", nargs="?", help="promote, benchmark: default the candidate")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model folder (default: best)")
    parser.add_argument("--kind", choices=KINDS, help="default: by what the model is")
    parser.add_argument("--scenario", help="name or YAML file (default: the model's own)")
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    parser.add_argument("--company", type=int, metavar="ID", help="default: all companies")
    parser.add_argument(
        "--registry", type=Path, metavar="DIR",
        help="one that stands alone: DIR/models and DIR/atmr.sqlite "
        "(default: <home>/models and the database of the environment)",
    )  # fmt: skip
    parser.add_argument("--who", default=None, help="who does it (default: the user)")
    parser.add_argument("--why", default="", help="for the log")
    parser.add_argument("--gate-report", help="report that allows a promotion; for the log")
    parser.add_argument("--days", type=positive_int, default=20, help="of the checks (default 20)")
    parser.add_argument("--budget-ms", type=positive_float, default=50.0, help="per decision")
    parser.add_argument("--transfer", action="store_true", help="admit values of another scenario")
    return parser


def export(arguments: argparse.Namespace, registry: Registry) -> tuple[int, dict[str, Any]]:
    """Export the best model, check it, register it as candidate."""
    from services.rl.training.export_run import export_model, save_report

    say = (lambda _: None) if arguments.quiet else print
    model, kind, metrics = arguments.model, arguments.kind, {}
    name = arguments.scenario
    if model is not None and (model / "checkpoints" / "best").is_dir():
        model = model / "checkpoints" / "best"
    if model is None and (kind in (None, NETWORK) or not arguments.scenario):
        found = best_model(paths.results_dir(), name and Path(name).stem, kind)
        model, kind, name = found.folder, found.kind, name or found.scenario
        metrics = {"score": found.score}
        say(f"best of {found.scenario}: {model} ({found.kind}, {found.score:.1f} reward a day)")
    elif model is not None and name is None:
        own = _trained(model)
        if own is None:
            raise UsageError(f"--model {model}: holds no model that can be served")
        name, metrics = own.scenario, {"score": own.score}
    scenario = _scenario(name, model)
    origin = provenance()
    with tempfile.TemporaryDirectory() as scratch:
        bundle, report = export_model(
            Path(scratch) / "bundle",
            scenario,
            kind=kind,
            model=model,
            source=open_source(scenario, arguments.data_dir),
            days=arguments.days,
            budget_ms=arguments.budget_ms,
            metrics=metrics,
            parent=registry.alias(arguments.company, "champion"),
            code_commit=origin["commit"],
            transfer=arguments.transfer,
            say=say,
        )
        page = save_report(report, bundle, paths.results_dir() / "export", origin)
        result = {"version": bundle.version, "report": report.to_json(), "page": str(page)}
        say(page.read_text(encoding="utf-8"))
        if not report.passes:
            print(f"not registered: {'; '.join(report.failures)}", file=sys.stderr)
            return FAILED, result
        registry.register(
            bundle.path, _who(arguments), arguments.why or f"exported from {_shown(model)}"
        )
    return SUCCESS, result


def benchmark(arguments: argparse.Namespace, registry: Registry) -> tuple[int, dict[str, Any]]:
    """Play a registered version as it is served, on this machine."""
    from services.rl.training.export_run import measure_bundle

    bundle = registry.get(_wanted(arguments, registry))
    source = open_source(bundle.scenario, arguments.data_dir)
    report = measure_bundle(bundle, source=source, days=arguments.days)
    if not arguments.quiet:
        low, high = report.served
        mean, half = report.over_matching
        print(
            f"{bundle.version} ({bundle.kind}): p50 / p99 {low:.2f} / {high:.2f} ms a decision, "
            f"{mean:+.1f} ± {half:.1f} reward a day against tuned matching"
        )
    for failure in report.failures:
        print(failure, file=sys.stderr)
    return (SUCCESS if report.passes else FAILED), {
        "version": bundle.version,
        "report": report.to_json(),
    }


def _wanted(arguments: argparse.Namespace, registry: Registry) -> str:
    version: str | None = arguments.version
    version = version or registry.alias(arguments.company, "candidate")
    if version is None and arguments.command == "benchmark":
        version = registry.alias(arguments.company, "champion")
    if version is None:
        raise UsageError("there is no candidate: export one (deploy_agent.py), or name a version")
    return version


def _shown(model: Path | None) -> str:
    """A model's folder as the log tells it: from the home on, where it lies there."""
    if model is None:
        return "the values filed for the scenario"
    folder = model.resolve()
    inside = folder.is_relative_to(paths.home())
    return str(folder.relative_to(paths.home()) if inside else model)[-180:]


def _who(arguments: argparse.Namespace) -> str:
    if arguments.who:
        return str(arguments.who)
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in a container
        return "deploy_agent"


def status(registry: Registry, company: int | None) -> dict[str, Any]:
    """Aliases, versions and the last changes."""
    return {
        "company": company,
        "aliases": {name: registry.alias(company, name) for name in ALIASES},
        "versions": [_described(registry, version) for version in registry.versions()],
        "history": [asdict(event) for event in registry.history(company)[-10:]],
    }


def _warn_of_another_world(bundle: Bundle) -> None:
    """A server serves one scenario; a model of another is replaced by the heuristic there."""
    served = load_scenario(Config.from_environment().scenario)
    if served.sha256 != bundle.manifest.scenario_hash:
        print(
            f"note: {bundle.version} is for the scenario {bundle.manifest.scenario!r}; a server "
            f"with ATMR_SCENARIO={served.name} does not serve it, the heuristic decides there",
            file=sys.stderr,
        )


def _described(registry: Registry, version: str) -> dict[str, Any]:
    try:
        manifest = registry.get(version).manifest
    except AtmrError as error:
        return {"version": version, "error": str(error)}
    return {
        "version": version,
        "kind": manifest.kind,
        "scenario": manifest.scenario,
        "backend": manifest.backend,
        "score": manifest.metrics.get("score"),
    }


def _show(found: dict[str, Any]) -> None:
    whose = "" if found["company"] is None else f", company {found['company']}"
    print(f"registry in {found['registry']}{whose}")
    for name, version in found["aliases"].items():
        print(f"  {name:10s} {version or '-'}")
    for entry in found["versions"]:
        if "error" in entry:
            print(f"  {entry['version']}  unusable: {entry['error']}")
        else:
            score = "" if entry["score"] is None else f"{entry['score']:.1f} reward a day"
            print(
                f"  {entry['version']}  {entry['kind']} for {entry['scenario']} "
                f"{entry['backend']} {score}".rstrip()
            )
    for event in found["history"]:
        print(
            f"  {event['at']}  {event['alias']}: {event['from_version'] or '-'} -> "
            f"{event['to_version'] or '-'}  by {event['who']}: {event['why']}"
        )


def _carried_out(arguments: argparse.Namespace, registry: Registry) -> tuple[int, dict[str, Any]]:
    """Do what the sub-command says; exit code and result."""
    if arguments.command == "export":
        return export(arguments, registry)
    if arguments.command == "benchmark":
        return benchmark(arguments, registry)
    who, why = _who(arguments), arguments.why
    if arguments.command == "promote":
        wanted = _wanted(arguments, registry)
        registry.promote(wanted, who, why, arguments.company, arguments.gate_report)
        if not arguments.quiet:
            _warn_of_another_world(registry.get(wanted))
    elif arguments.command == "rollback":
        registry.rollback(who, why, arguments.company)
    return SUCCESS, {}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a sub-command and print the status."""
    arguments = _parser().parse_args(argv)
    if arguments.version and arguments.command not in ("promote", "benchmark"):
        raise UsageError(f"{arguments.command} takes no version")
    alone: Path | None = arguments.registry
    config = Config.from_environment()
    if alone is not None:  # by the name that comes first: the environment's is another's
        alone = alone.resolve()
        config = Config.from_environment(ATMR_DATABASE_URL=f"sqlite:///{alone / 'atmr.sqlite'}")
    with open_registry(config, home=alone) as registry:
        code, result = _carried_out(arguments, registry)
        found = {
            "registry": described(parse_url(config.database_url.get_secret_value())),
            **status(registry, arguments.company),
        }
    if not arguments.quiet:
        _show(found)
    if arguments.json is not None:
        write_json(arguments.json, {**result, "status": found, **provenance()})
    return code


if __name__ == "__main__":
    run(main)
