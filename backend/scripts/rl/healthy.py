"""Ask the server on this machine whether it is ready (exit code 0 or 1): a health check."""

import http.client
import json
import os
import sys
from collections.abc import Sequence

from scripts.rl.command import FAILED, SUCCESS, command_parser, run

EXAMPLES = """
healthy.py
ATMR_BIND=0.0.0.0:9000 healthy.py
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Read ``/readyz`` at the port of ATMR_BIND."""
    arguments = command_parser(__doc__ or "", EXAMPLES).parse_args(argv)
    port = os.environ.get("ATMR_BIND", "127.0.0.1:8000").rpartition(":")[2]
    server = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
    try:
        server.request("GET", "/readyz")
        answer = server.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError) as error:
        print(f"no answer on port {port}: {type(error).__name__}", file=sys.stderr)
        return FAILED
    finally:
        server.close()
    if answer.status != 200:
        print(f"not ready: {found.get('problems')}", file=sys.stderr)
        return FAILED
    if not arguments.quiet:
        print("ready")
    return SUCCESS


if __name__ == "__main__":
    run(main)
