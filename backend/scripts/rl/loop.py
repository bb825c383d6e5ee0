"""The whole loop in one process, without a broker: ticks, collection, retraining, reports.

What workers and beat do on several machines, on one: on the database alone, experiences in memory
where no Redis is named (filled again from the database at the start), training in a process of its
own. Ctrl-C stops it; a training that is under way is begun again at the next start.
"""

import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from scripts.rl.command import INTERRUPTED, Parser, command_parser, run, write_json
from scripts.rl.tick import tell
from services.learning.bodies import BODIES
from services.learning.embedded import Embedded
from services.learning.loop import Loop, open_loop
from services.learning.running import Outcome
from services.learning.workplace import Workplace
from services.rl.data.memory_replay import MemoryReplayStore
from tasks.schedule import SCHEDULE, entry_named

EXAMPLES = """
loop.py
loop.py --once
loop.py --only collection,retraining --once
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    schedule = (
        SCHEDULE
        if arguments.only is None
        else tuple(entry_named(name) for name in arguments.only.split(","))
    )
    outcomes: list[Outcome] = []

    def on_outcome(outcome: Outcome) -> None:
        tell(outcome, quiet=arguments.quiet)
        if arguments.once:
            outcomes.append(outcome)

    with open_loop() as loop:
        place = Workplace(loop)
        names = {entry.name for entry in schedule}
        if "tick" in names:
            place.dispatcher()  # compiles and loads before the first epoch
        if names & {"collection", "retraining"}:
            remember(loop, place.companies(), quiet=arguments.quiet)
        embedded = Embedded(
            place, schedule, BODIES, in_background=not arguments.once, on_outcome=on_outcome
        )
        if arguments.once:
            embedded.step(whatever=True)
            embedded.close()
            if arguments.json is not None:
                write_json(arguments.json, {"runs": [_row(outcome) for outcome in outcomes]})
            return 1 if any(o.state in ("failed", "dead") for o in outcomes) else 0
        alive = loop.home / "data" / "loop.alive"
        alive.parent.mkdir(parents=True, exist_ok=True)
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        if not arguments.quiet:
            print("the loop runs; Ctrl-C stops it", flush=True)
        try:
            embedded.run(
                stop=stop,
                alive=alive.touch,
                on_trouble=lambda why: print(f"a round was lost: {why}", file=sys.stderr),
            )
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def remember(loop: Loop, company_ids: Iterable[int], *, quiet: bool) -> None:
    """Fill this process's memory of experiences from the database, where nothing else keeps them.

    Raises:
        AtmrError: If a company's log cannot be read.
    """
    if not isinstance(loop.store, MemoryReplayStore):
        return
    from services.learning.collector import rebuild

    for company_id in company_ids:
        rebuild(loop, company_id)
        if not quiet:
            kept = loop.store.counts(company_id).kept
            print(f"company {company_id}: {kept} experiences from the database", flush=True)


def _parser() -> Parser:
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--once", action="store_true", help="do what is due now, then leave")
    parser.add_argument(
        "--only", metavar="NAME,...", help="tasks of the schedule: "
        + ", ".join(entry.name for entry in SCHEDULE),
    )  # fmt: skip
    return parser


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "task": outcome.job.entry.name,
        "run": outcome.job.key,
        "state": outcome.state,
        "result": outcome.result,
        "error": outcome.error,
    }


if __name__ == "__main__":
    run(main)
