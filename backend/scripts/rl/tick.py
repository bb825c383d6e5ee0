"""Dispatch all companies' open bookings: once, or at every epoch until it is stopped.

Where a broker runs, a beat task does this; here one process does it alone. It also watches the
guardrails of running experiments.
"""

import sys
import time
from collections.abc import Sequence

from config import Config
from scripts.rl.command import INTERRUPTED, command_parser, run
from services.dispatching.desk import Desk
from services.dispatching.dispatcher import Dispatcher
from services.dispatching.tick import companies, dispatch_open_bookings
from services.dispatching.watch import Watches
from services.model_registry import SqlRegistry
from services.rl import paths
from services.rl.simulation.scenarios import load_scenario

EXAMPLES = """
tick.py
tick.py --every-epoch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--every-epoch", action="store_true", help="go on until Ctrl-C")
    arguments = parser.parse_args(argv)
    from clock import SystemClock
    from extensions import Database

    config = Config.from_environment()
    scenario = load_scenario(config.scenario)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    clock = SystemClock()
    desk = Desk(
        scenario,
        database,
        clock,
        SqlRegistry(database, clock),
        budget_ms=config.budget_ms,
        device=config.device,
    )
    desk.warm_up()
    dispatcher = Dispatcher(desk, database, clock, config.zone)
    watches = Watches(database, scenario.rules)
    alive = paths.home() / "data" / "tick.alive"
    alive.parent.mkdir(parents=True, exist_ok=True)
    try:
        while True:
            begun = time.monotonic()
            known = companies(database)
            tick = dispatch_open_bookings(dispatcher, known)
            for company_id, breach in watches.look(known, clock.now()).items():
                whose = "default experiment" if company_id is None else f"company {company_id}"
                print(f"{whose}: the learned arm was stopped: {breach.words}")
            if not arguments.quiet:
                print(
                    f"{len(tick.epochs)} companies, {tick.assigned} bookings assigned, "
                    f"{tick.overdue} overdue"
                    + (f", {len(tick.failed)} failed" if tick.failed else ""),
                    flush=True,
                )
            for company_id, why in tick.failed.items():
                print(f"company {company_id} was not dispatched: {why}", file=sys.stderr)
            if not arguments.every_epoch:
                return 1 if tick.failed else 0
            alive.touch()  # for a health check: still at work
            time.sleep(max(1.0, 60.0 * scenario.rules.epoch_min - (time.monotonic() - begun)))
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    run(main)
