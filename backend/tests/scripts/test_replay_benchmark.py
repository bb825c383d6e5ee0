"""The replay benchmark measures both stores and reads what it wrote."""

import json
from pathlib import Path

import pytest

from scripts.rl.benchmark import main
from tests.redis_server import RedisServer, find_redis


def test_every_row_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = find_redis()
    if program is None:
        pytest.skip("MISSING ROOT PACKAGE: no Redis on this machine (requirements-dev.txt)")
    with RedisServer(program) as server:
        written = tmp_path / "replay.json"
        given = ["replay", "--count", "40", "--quiet", "--redis", server.url]
        assert main([*given, "--json", str(written)]) == 0
    assert capsys.readouterr().out == ""
    result = json.loads(written.read_text(encoding="utf-8"))
    assert 900 < result["bytes"]["encoded"] < 1250
    names = [row["name"] for row in result["rows"]]
    assert {"encode", "redis: put", "redis: sample 256, as a whole", "memory: read"} <= set(names)
    assert all(row["passed_us"] > 0 for row in result["rows"])
