"""What every command line shares: options, one-sentence errors, exit codes, results as JSON.

Exit codes: 0 success, 1 a failed gate or check, 2 wrong usage or input, 130 interrupted.
A script defines ``main(argv) -> int`` and ends with ``run(main)``; it then works from any folder,
as ``python scripts/rl/x.py`` or ``python backend/scripts/rl/x.py``.
"""

import argparse
import contextlib
import errno
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from services.rl.errors import AtmrError, UsageError
from services.rl.paths import NAME_PATTERN

SUCCESS, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

_SECRET = ("--database-url", "--storage")

_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST,
    errno.ENOTDIR, errno.EISDIR, errno.EIO,
)  # fmt: skip
"""A full, read-only, foreign or broken place: a person's to mend, no fault of ours to trace."""

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and which never guesses at options."""

    def error(self, message: str) -> NoReturn:
        """Print one sentence that points at ``--help``, and exit with 2."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)


def command_parser(description: str, examples: str) -> Parser:
    """A parser with the common options ``--json`` and ``--quiet``; examples end its help."""
    parser = Parser(
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def resuming(argv: Sequence[str], name: str) -> str:
    """The command that goes on with a training: as started, with its name and ``--resume``."""
    words = [word for word in argv if word != "--resume"]
    if not any(word == "--name" or word.startswith("--name=") for word in words):
        words += ["--name", name]
    return shlex.join(["train_dqn.py", *words, "--resume"])


@contextlib.contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM (``docker stop``, systemd) is Ctrl-C: what is finished is written.

    Only the main thread may say so; elsewhere the signal stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_name(option: str, name: str) -> None:
    """Names of folders under ``results/``, as trainings and studies have them.

    Raises:
        UsageError: If it is none, naming the option.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"{option} {name!r}: a name has up to 100 letters, digits, dots, dashes and "
            "underscores, and begins with a letter or a digit"
        )


def script_beside(name: str) -> str:
    """Another script as a person who ran this one would type it: ``python .../train_dqn.py``."""
    here = Path(sys.argv[0])
    return f"python {shlex.quote(str(here.with_name(name)))}" if here.suffix == ".py" else name


def exit_code(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None
) -> int:
    """Run ``main`` and turn what a person can cause into a sentence and an exit code."""
    try:
        return main(argv) or SUCCESS
    except AtmrError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter's last flush quiet as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return FAILED


def run(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> NoReturn:
    """Run a script's ``main`` and leave with its exit code."""
    raise SystemExit(exit_code(main, argv))


def positive_int(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def seed_number(text: str) -> int:
    """Argument type: a whole number that every generator of the project takes as a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def positive_float(text: str) -> float:
    """Argument type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def progress(
    items: Iterable[T], *, label: str, quiet: bool, total: int | None = None
) -> Iterable[T]:
    """The items under a progress bar; none when quiet or when the output is no terminal."""
    if quiet or not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=label, total=total, leave=False)
    return bar


def make_folder(folder: Path | None) -> None:
    """Find out before minutes of work whether its results can be written.

    Raises:
        UsageError: If the folder cannot be made.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"folder {folder} cannot be made: {error.strerror}") from error


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it (no interval, no score yet)."""
    return value if math.isfinite(value) else None


def write_json(path: Path, payload: Any) -> None:
    """Write JSON under a temporary name, then rename.

    Raises:
        UsageError: If the file cannot be written.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be none
            temporary.unlink(missing_ok=True)
        raise UsageError(f"--json {path} cannot be written: {error.strerror}") from error


def provenance() -> dict[str, Any]:
    """Which command, code and machine made a result: for the head of every JSON file."""
    return {
        "command": " ".join(without_secrets(sys.argv)),
        "commit": _commit(),
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
    }


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """The command line with the values of `_SECRET` options left out: they may hold a password."""
    shown = list(arguments)
    for i, argument in enumerate(shown):
        name = argument.partition("=")[0]
        if name in _SECRET and name != argument:
            shown[i] = f"{name}=..."
        elif name in _SECRET and i + 1 < len(shown):
            shown[i + 1] = "..."
    return shown


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - git is looked up on PATH on purpose
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
