"""Compile what serving runs, once: an image does it while it is built, so that starting is quick.

The compiled code lies in NUMBA_CACHE_DIR (beside the sources without it) and is of use on
processors of the same kind; on another kind the first start compiles again.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.rl.command import command_parser, run, write_json
from services.rl.serving.bundle import MATCHING, PLANNER, write_bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.simulation.scenarios import load_scenario

EXAMPLES = """
warm_up.py
NUMBA_CACHE_DIR=/var/cache/atmr warm_up.py
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Make a decision with every kind of policy that needs no training, and throw it away."""
    arguments = command_parser(__doc__ or "", EXAMPLES).parse_args(argv)
    begin = time.perf_counter()
    scenario = load_scenario("geneva")
    kinds = (MATCHING, PLANNER)
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            bundle = write_bundle(Path(folder) / kind, kind, scenario)
            InferenceEngine(scenario, bundle).warm_up()
    spent = time.perf_counter() - begin
    if arguments.json is not None:
        write_json(arguments.json, {"seconds": spent, "kinds": list(kinds)})
    if not arguments.quiet:
        print(f"compiled {', '.join(kinds)} in {spent:.1f} s")
    return 0


if __name__ == "__main__":
    run(main)
