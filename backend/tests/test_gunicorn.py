"""The app under gunicorn: several processes, one count, a killed worker is replaced."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from access import create_key
from clock import SystemClock
from extensions import Database
from migrations import upgrade

BACKEND = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 60


@pytest.fixture
def server(tmp_path):
    """URL and key of a running server with two workers, and its environment's log."""
    url = f"sqlite:///{tmp_path / 'atmr.sqlite'}"
    database = Database(url)
    upgrade(database.engine)
    with database.writing() as work:
        _, key = create_key(work, SystemClock(), company_id=1, name="x", scopes=("read",))
    database.dispose()
    environment = {
        **os.environ,
        "ATMR_HOME": str(tmp_path),
        "ATMR_DATABASE_URL": url,
        "ATMR_BIND": "127.0.0.1:0",
        "ATMR_WORKERS": "2",
        "PYTHONPATH": str(BACKEND),
        "PYTHONWARNINGS": "default",
    }
    log = (tmp_path / "log").open("wb")
    command = [sys.executable, "-m", "gunicorn", "-c", str(BACKEND / "gunicorn.conf.py")]
    process = subprocess.Popen(
        [*command, "--log-level", "info", "app:create_app()"],
        env=environment,
        stderr=log,
        stdout=log,
        cwd=tmp_path,
    )
    try:
        yield _address(process, tmp_path / "log"), key, tmp_path / "log"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
    assert process.returncode == 0


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"Listening at: (http://\S+)", log.read_text())
        if found and ready(found[1]):
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"gunicorn did not start:\n{log.read_text()}")


def ready(address: str) -> bool:
    try:
        return get(address + "/readyz")[0] == 200
    except OSError:
        return False


def get(url: str, key: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def counted(address: str) -> float:
    text = get(address + "/metrics")[1]
    pattern = r'atmr_http_requests_total\{[^}]*route="/api/v1/drivers"[^}]*\} ([0-9.]+)'
    return sum(float(value) for value in re.findall(pattern, text))


def test_two_workers_count_together_and_a_killed_one_is_replaced(server):
    address, key, log = server
    for _ in range(20):
        assert get(address + "/api/v1/drivers", key)[0] == 200
    assert counted(address) == 20
    worker = int(re.findall(r"Booting worker with pid: (\d+)", log.read_text())[0])
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + START_TIMEOUT_S
    while len(re.findall("Booting worker", log.read_text())) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    answers = [get(address + "/api/v1/drivers", key)[0] for _ in range(10)]
    assert answers == [200] * 10
    assert counted(address) == 30
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    assert sum(json.loads(line).get("route") == "/api/v1/drivers" for line in lines) == 30


def test_the_app_never_imports_torch():
    code = "import app, sys; app.create_app; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(BACKEND)}, check=False
    )
    assert done.returncode == 0
