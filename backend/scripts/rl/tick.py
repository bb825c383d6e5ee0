"""Dispatch all companies' open bookings: once, or at every epoch until it is stopped.

The schedule's ticks alone, without a broker: patients are dispatched whatever becomes of Redis and
of workers. Beside workers that tick as well, each epoch of a company is done by whoever is first;
with ``--stand-by`` this process does only what nobody has begun so many seconds into the epoch.
It also watches the guardrails of running experiments.
"""

import sys
from collections.abc import Sequence

from scripts.rl.command import INTERRUPTED, command_parser, positive_float, run
from services.dispatching.tick import companies, dispatch_open_bookings
from services.learning.bodies import BODIES
from services.learning.embedded import Embedded
from services.learning.loop import open_loop
from services.learning.running import Outcome
from services.learning.workplace import Workplace
from services.rl.errors import UsageError
from tasks.schedule import entry_named

EXAMPLES = """
tick.py
tick.py --every-epoch
tick.py --every-epoch --stand-by 60
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--every-epoch", action="store_true", help="go on until Ctrl-C")
    parser.add_argument(
        "--stand-by", type=positive_float, default=0.0, metavar="SECONDS",
        help="with --every-epoch: leave epochs to workers that begin them so soon",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.stand_by and not arguments.every_epoch:
        raise UsageError("--stand-by goes with --every-epoch")
    with open_loop() as loop:
        place = Workplace(loop)
        place.dispatcher()  # compiles and loads before the first epoch
        if not arguments.every_epoch:
            return _once(place, quiet=arguments.quiet)
        alive = loop.home / "data" / "tick.alive"
        alive.parent.mkdir(parents=True, exist_ok=True)
        embedded = Embedded(
            place,
            [entry_named("tick"), entry_named("guardrails")],
            BODIES,
            stand_by_s=arguments.stand_by,
            on_outcome=lambda outcome: tell(outcome, quiet=arguments.quiet),
        )
        try:
            embedded.run(
                alive=alive.touch,  # for a health check: still at work
                on_trouble=lambda why: print(f"no tick: {why}", file=sys.stderr),
            )
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def tell(outcome: Outcome, *, quiet: bool) -> None:
    """Say what became of a job; what went wrong also when quiet."""
    job = outcome.job
    whose = "" if job.company_id is None else f"company {job.company_id}, "
    if outcome.state in ("failed", "dead"):
        given_up = " (given up: see task_runs.py)" if outcome.state == "dead" else ""
        print(f"{whose}{job.entry.name}: {outcome.error}{given_up}", file=sys.stderr, flush=True)
        return
    for experiment, breach in outcome.result.get("stopped", {}).items():
        print(f"{experiment}: the learned arm was stopped: {breach}", flush=True)
    if not quiet and outcome.state != "elsewhere":
        counts = ", ".join(
            f"{value} {name.replace('_', ' ')}"
            for name, value in outcome.result.items()
            if type(value) is int and value and name != "company_id"
        )
        print(f"{whose}{job.entry.name}: {outcome.state}" + (f", {counts}" if counts else ""),
              flush=True)  # fmt: skip


def _once(place: Workplace, *, quiet: bool) -> int:
    """Now, whoever has dispatched in this epoch: a person asks for it."""
    known = companies(place.loop.database)
    tick = dispatch_open_bookings(place.dispatcher(), known)
    for company_id, breach in place.watches().look(known, place.loop.clock.now()).items():
        whose = "the default experiment" if company_id is None else f"company {company_id}"
        print(f"{whose}: the learned arm was stopped: {breach}")
    if not quiet:
        print(
            f"{len(tick.epochs)} companies, {tick.assigned} bookings assigned, "
            f"{tick.overdue} overdue" + (f", {len(tick.failed)} failed" if tick.failed else "")
        )
    for company_id, why in tick.failed.items():
        print(f"company {company_id} was not dispatched: {why}", file=sys.stderr)
    return 1 if tick.failed else 0


if __name__ == "__main__":
    run(main)
