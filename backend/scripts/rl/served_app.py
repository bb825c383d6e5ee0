"""The app under gunicorn as our own child, on a free port of the loopback: for benchmarks, tests.

Started with the settings that are deployed (``gunicorn.conf.py``); ended with all its workers when
the context ends.
"""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.rl.errors import DataError

BACKEND: Final = Path(__file__).resolve().parents[2]
_END_S: Final = 30.0


class ServedApp:
    """One server; a context.

    Args:
        folder: Writable, for its log.
        settings: Environment variables (``ATMR_DATABASE_URL``, ``ATMR_HOME``, ...).
        workers: Processes.
        application: What gunicorn imports.
        start_timeout_s: Compiling takes minutes where nothing is cached.

    Attributes:
        ready_s: From the start of the process to the first 200 of ``/readyz``.
        log: File with its standard output and errors.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *,
        workers: int = 2,
        application: str = "wsgi:create()",
        start_timeout_s: float = 300.0,
    ) -> None:
        self.log = folder / "server.log"
        self.ready_s = 0.0
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(BACKEND),
            "ATMR_BIND": "127.0.0.1:0",
            "ATMR_WORKERS": str(workers),
            **settings,
        }
        self._environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        self._application = application
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self.host, self.port = "127.0.0.1", 0

    def __enter__(self) -> Self:
        """Start, and wait until it is ready.

        Raises:
            DataError: If it ends, or is not ready in time.
        """
        begun = time.perf_counter()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and files
                [
                    *(sys.executable, "-m", "gunicorn", "-c", str(BACKEND / "gunicorn.conf.py")),
                    *("--log-level", "info", self._application),
                ],
                env=self._environment,
                cwd=self.log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self._await_ready(begun)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Of the master."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Process ids of the workers that live now, the oldest first."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return sorted(int(word) for word in text.split())

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body of a GET without a key.

        Raises:
            OSError: If it does not answer.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"no answer to {path}: {error}") from error
        finally:
            connection.close()

    def stop(self) -> None:
        """End it gracefully; at once if it will not."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            for pid in self.workers():
                os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()
        self._process = None

    def _await_ready(self, begun: float) -> None:
        assert self._process is not None
        said = "it does not listen"
        while time.perf_counter() - begun < self._start_timeout_s:
            if self._process.poll() is not None:
                raise DataError(f"the server ended while starting:\n{self.tail()}")
            found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log.read_text())
            if found:
                self.port = int(found[1])
                try:
                    status, body = self.get("/readyz", self._start_timeout_s)
                except OSError as error:
                    said = str(error)
                else:
                    if status == 200:
                        self.ready_s = time.perf_counter() - begun
                        return
                    said = body.decode(errors="replace")[:300]
            time.sleep(0.02)
        raise DataError(f"the server is not ready ({said}):\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def resident_mb(pid: int) -> float:
    """Resident memory of a process, megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise DataError(f"process {pid} tells no VmRSS")


def processor_s(pid: int) -> float:
    """Processor time that a process has taken, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def has_torch(pid: int) -> bool:
    """Whether Torch's libraries are mapped in a process."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
