"""The protocol's outcome as plain data: one row per configuration, rules, verdict, hashes."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from .bench import Bench, refuse_mixed
from .protocol import DEFAULT, Outcome, Plan, differences, failed, measures, val_total
from .rules import BLOCKING, SPEED, VERDICT, findings, urgent


def document(bench: Bench, plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    results = list(outcome.results.values())
    default = outcome.results.get(DEFAULT)
    order = bench.order
    return {
        "scenario": order.scenario.name,
        "drivers": order.scenario.fleet.num_drivers,
        "identity": order.identity(),
        "data": bench.data.document(),
        "hashes": refuse_mixed(results) if results else bench.hashes(),
        "judging_days": [bench.book.labels[0], bench.book.labels[-1], len(bench.book)],
        "plan": {**asdict(plan), "phases": list(plan.phases)},
        "rules": [asdict(rule) for rule in (SPEED, *VERDICT)],
        "rows": [_row(outcome, r, default) for r in results],
        "chosen": outcome.chosen,
        "loader": outcome.loader,
        "winner": outcome.winner,
        "backends": [asdict(row) for row in outcome.backends],
        "findings": [finding.document() for finding in outcome.verdict],
        # While phase C still runs there is none yet.
        "verdict": None if outcome.interrupted or not outcome.verdict
        else "GO" if outcome.go else "NO-GO",
        "interrupted": outcome.interrupted,
        "reused": bench.reused,
        "torch": {"version": torch.__version__, "threads": torch.get_num_threads()},
    }  # fmt: skip


def _row(
    outcome: Outcome, result: Mapping[str, Any], default: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One line of the table; a long run is compared with the default's of the same seed."""
    name = result["name"]
    row: dict[str, Any] = {
        "name": name,
        "phase": outcome.phase[name],
        "state": result["state"],
        "options": result["options"],
        "why": outcome.why.get(name, "confirmation longue"),
    }
    if failed(result):
        return {**row, "why": f"échec : {result['reason']}"}
    if outcome.phase[name] == "C":
        default = outcome.results.get(f"long_{DEFAULT}_seed_{result['options']['seed']}")
    fit = {k: v for k, v in result["fit"].items() if k != "history"}
    kpis = {k: np.asarray(v) for k, v in result["kpis"].items()}
    row |= {
        "fit": fit,
        "curve": _curve(result),
        "kpis": {k: float(v.mean()) for k, v in kpis.items()},
        "unserved_urgent": float(urgent(kpis).mean()),
        "parity": result["parity"],
        "speed": outcome.speeds.get(name),
    }
    if default is not None and not failed(default):
        row["seconds_to_default"] = _seconds_to(result, val_total(default))
        if name != default["name"]:
            row["differences"] = {
                k: {"mean": e.mean, "low": e.low, "high": e.high} if np.isfinite(e.half_width)
                else None for k, e in differences([result], [default]).items()
            }  # fmt: skip
            found = findings(BLOCKING, measures([result], [default]))
            row["blocking"] = [finding.document() for finding in found]
    return row


def _curve(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """``val_total`` over epochs, and the processor's seconds of training until then."""
    history = result["fit"]["history"]
    return {
        "val_total": [e["val_total"] for e in history],
        "seconds": np.cumsum([e["cpu_seconds"] for e in history]).tolist(),
    }


def _seconds_to(result: Mapping[str, Any], level: float) -> float | None:
    """Processor seconds of training until ``val_total`` was as low; None: never."""
    curve = _curve(result)
    for total, seconds in zip(curve["val_total"], curve["seconds"], strict=True):
        if total <= level:
            return float(seconds)
    return None
