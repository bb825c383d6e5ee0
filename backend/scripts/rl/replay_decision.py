"""Reproduce a logged decision from the state it was made on: what was known, what was decided.

Reads the decision and its snapshot, asks the same model again, and says whether it decides the
same; then what each driver would have done. A plan of the epoch before is not in the log: a planner
may decide otherwise without it, and that is said.
"""

import sys
import zlib
from collections.abc import Sequence
from typing import Any

from clock import SystemClock
from config import Config
from extensions import Database
from models import Decision, FleetSnapshot
from scripts.rl.command import command_parser, run, write_json
from services.rl.errors import UsageError
from services.rl.serving.engine import InferenceEngine
from services.rl.simulation.engine import travel_tables
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.rl.simulation.types import DispatchState

from services.dispatching.schedule import Schedule  # isort: skip
from services.model_registry import SqlRegistry  # isort: skip

EXAMPLES = """
replay_decision.py 3da7a5b8b33745c4a725894ff509f995
replay_decision.py 3da7a5b8b33745c4a725894ff509f995 --json decision.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("decision_id", help="as the API answered it")
    arguments = parser.parse_args(argv)
    config = Config.from_environment()
    scenario = load_scenario(config.scenario)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        found = replay(database, scenario, arguments.decision_id)
    finally:
        database.dispose()
    if arguments.json is not None:
        write_json(arguments.json, found)
    if not arguments.quiet:
        _print(found)
    return 0 if found["same"] in (True, None) else 1


def replay(database: Database, scenario: Scenario, decision_id: str) -> dict[str, Any]:
    """The decision, what its model decides now, and every driver's alternative.

    Raises:
        UsageError: If there is no such decision, it has no snapshot (a person's), or its state is
            of another scenario.
    """
    with database.reading() as session:
        row = session.get(Decision, decision_id)
        if row is None:
            raise UsageError(f"there is no decision {decision_id!r}")
        if row.snapshot_id is None:
            raise UsageError(f"decision {decision_id} was a person's: there is no state to replay")
        snapshot = session.get(FleetSnapshot, row.snapshot_id)
        assert snapshot is not None
    state = DispatchState.from_json(zlib.decompress(snapshot.payload).decode())
    if snapshot.scenario_hash != scenario.sha256:
        raise UsageError(
            f"decision {decision_id} was made in the scenario {state.scenario!r} "
            f"({snapshot.scenario_hash[:12]}), not in {scenario.name!r} ({scenario.sha256[:12]}): "
            "set ATMR_SCENARIO"
        )
    b = next((i for i, name in enumerate(state.booking_ids) if name == str(row.booking_id)), None)
    found: dict[str, Any] = {
        "decision_id": decision_id,
        "decided_at": row.decided_at.isoformat(),
        "booking_id": row.booking_id,
        "logged": {
            "driver_id": row.driver_id,
            "arm": row.arm,
            "unit": row.unit,
            "model": row.model,
            "fallback_reason": row.fallback_reason,
            "propensity": row.propensity,
            "score": row.score,
            "features": row.features or {},
            "source": row.source,
        },
        "overridden_by": row.overridden_by,
        "drivers": len(state.driver_ids),
        "bookings": len(state.booking_ids),
        "replayed": None,
        "same": None,
        "pinned": False,
        "alternatives": [],
    }
    if b is None:  # set aside before the policies saw the state
        found["pinned"] = True
        return found
    if row.source == "policy" and row.arm in ("rl", "heuristic"):
        bundle = SqlRegistry(database, SystemClock()).get(row.model) if row.model else None
        engine = InferenceEngine(scenario, bundle)
        uses_rl = row.arm == "rl" and row.fallback_reason is None
        answer = engine.decide(state, budget_ms=60_000.0, use="rl" if uses_rl else "heuristic")
        engine.close()
        taken = next((d for d in answer.decisions.decisions if d.booking == b), None)
        driver = None if taken is None or taken.driver is None else taken.driver
        again = None if driver is None else int(state.driver_ids[driver])
        found["replayed"] = {"policy": answer.policy, "driver_id": again}
        explored = bool((row.features or {}).get("explored"))
        found["same"] = None if explored else again == row.driver_id
    schedule = Schedule.of_state(state, travel_tables(scenario))
    for d, name in enumerate(state.driver_ids):
        job = schedule.planned(d, b)
        found["alternatives"].append(
            {
                "driver_id": int(name),
                "minutes_away": round(job.drive_min, 2),
                "late_min": round(job.late_min, 2),
                "deadhead_km": round(job.deadhead_km, 3),
                "committed": int(state.drivers["committed"][d]),
                "wheelchair": bool(state.drivers["wheelchair"][d]),
                "down": bool(state.drivers["down"][d]),
            }
        )
    return found


def _print(found: dict[str, Any]) -> None:
    logged = found["logged"]
    what = "deferred" if logged["driver_id"] is None else f"driver {logged['driver_id']}"
    print(f"decision {found['decision_id']} at {found['decided_at']}: booking "
          f"{found['booking_id']} -> {what}")  # fmt: skip
    print(f"  {found['drivers']} drivers, {found['bookings']} open bookings; arm {logged['arm']}, "
          f"model {logged['model'] or 'none'}, fallback {logged['fallback_reason'] or 'none'}, "
          f"propensity {logged['propensity']:.3f}")  # fmt: skip
    for name, value in logged["features"].items():
        print(f"  {name:14s} {value:10.3f}")
    if found["overridden_by"]:
        print(f"  overridden by {found['overridden_by']}")
    if found["replayed"] is not None:
        again = found["replayed"]
        word = {True: "the same", False: "NOT THE SAME", None: "explored: not comparable"}
        print(f"replayed by {again['policy']}: driver {again['driver_id']}: {word[found['same']]}")
        if found["same"] is False:
            print("(a planner that had the plan of the epoch before may decide otherwise)",
                  file=sys.stderr)  # fmt: skip
    if found["pinned"]:
        print("pinned by a person: no policy was asked")
        return
    print("driver  min away   late  km empty  jobs")
    for each in sorted(found["alternatives"], key=lambda a: (a["late_min"], a["minutes_away"])):
        marks = (" wheelchair" if each["wheelchair"] else "") + (" DOWN" if each["down"] else "")
        print(f"{each['driver_id']:6d} {each['minutes_away']:9.1f} {each['late_min']:6.1f} "
              f"{each['deadhead_km']:9.2f} {each['committed']:5d}{marks}")  # fmt: skip


if __name__ == "__main__":
    run(main)
