"""The fenced lock: one holder at a time, and a late one keeps nothing."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from clock import FixedClock
from extensions import Database
from migrations import upgrade
from services.learning.locks import FencedLocks, LockLostError
from services.model_registry import SqlRegistry
from services.rl.errors import BundleError
from tests.rl.serving.models import bundle_of

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, atmr_home):
    url = (
        f"sqlite:///{atmr_home / 'atmr.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    opened = Database(url)
    upgrade(opened.engine)
    yield opened
    opened.dispose()


@pytest.fixture
def clock():
    return FixedClock(NOON)


@pytest.fixture
def locks(database, clock):
    return FencedLocks(database, clock)


def test_a_second_holder_has_to_wait_until_the_first_gives_back(locks):
    first = locks.acquire("retraining", "a", HOUR)
    assert first is not None
    assert locks.acquire("retraining", "b", HOUR) is None
    assert locks.acquire("retraining", "a", HOUR) is None, "not re-entrant"
    assert locks.acquire("something else", "b", HOUR) is not None
    assert locks.release(first)
    second = locks.acquire("retraining", "b", HOUR)
    assert second is not None
    assert second.token > first.token


def test_a_holder_not_heard_of_loses_the_lock_and_cannot_take_it_back(locks, clock, database):
    late = locks.acquire("retraining", "late", HOUR)
    clock.advance(minutes=59)
    assert locks.acquire("retraining", "next", HOUR) is None
    clock.advance(minutes=2)
    held = locks.acquire("retraining", "next", HOUR)
    assert held.token > late.token
    with pytest.raises(LockLostError, match="is now of next"):
        locks.renew(late, HOUR)
    assert not locks.release(late), "it must not free the next one's"
    with database.writing() as session:
        locks.check(session, held)
        with pytest.raises(LockLostError):
            locks.check(session, late)


def test_renewing_keeps_it_for_longer(locks, clock):
    held = locks.acquire("retraining", "a", HOUR)
    clock.advance(minutes=50)
    held = locks.renew(held, HOUR)
    clock.advance(minutes=50)
    assert locks.acquire("retraining", "b", HOUR) is None
    assert held.expires_at == NOON + timedelta(minutes=110)


def test_of_many_that_ask_at_once_one_gets_it(locks):
    got, barrier = [], threading.Barrier(8)

    def ask(name):
        barrier.wait()
        got.append(locks.acquire("retraining", name, HOUR))

    threads = [threading.Thread(target=ask, args=(f"worker {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert sum(held is not None for held in got) == 1


def test_a_late_holder_cannot_register_what_it_made(locks, clock, database, tmp_path):
    registry = SqlRegistry(database, clock)
    bundle = bundle_of("matching", tmp_path)
    late = locks.acquire("retraining", "late", HOUR)
    clock.advance(minutes=61)
    held = locks.acquire("retraining", "next", HOUR)
    with pytest.raises(LockLostError):
        registry.register(bundle.path, "late", "x", before=lambda s: locks.check(s, late))
    assert registry.versions() == []
    assert registry.alias(None, "candidate") is None
    version = registry.register(bundle.path, "next", "x", before=lambda s: locks.check(s, held))
    assert registry.alias(None, "candidate") == version


def test_a_candidate_can_be_one_companys_with_its_gate_report(database, clock, tmp_path):
    registry = SqlRegistry(database, clock)
    version = registry.register(
        bundle_of("matching", tmp_path).path, "job", "x", company=7, gate_report="results/g.json"
    )
    assert registry.alias(7, "candidate") == version
    assert registry.alias(8, "candidate") is None
    assert registry.history(7)[-1].gate_report == "results/g.json"
    with pytest.raises(BundleError):
        registry.get("nothing")


def test_kept_renews_while_the_work_goes_on_and_gives_back_in_the_end(locks, clock):
    held = locks.acquire("retraining", "a", HOUR)
    renewed = threading.Event()
    original = locks.renew

    def seen(*arguments):
        result = original(*arguments)
        renewed.set()
        return result

    locks.renew = seen
    with locks.kept(held, HOUR, every_s=0.01) as still_mine:
        clock.advance(minutes=50)
        renewed.clear()
        assert renewed.wait(10)
        clock.advance(minutes=50)
        assert locks.acquire("retraining", "b", HOUR) is None
        still_mine()
    assert locks.acquire("retraining", "b", HOUR) is not None


def test_kept_says_that_the_lock_has_gone(locks, clock):
    held = locks.acquire("retraining", "a", HOUR)
    clock.advance(minutes=61)
    assert locks.acquire("retraining", "b", HOUR) is not None
    with locks.kept(held, HOUR, every_s=0.01) as still_mine:
        noticed = threading.Event()
        for _ in range(1000):
            try:
                still_mine()
            except LockLostError:
                noticed.set()
                break
            noticed.wait(0.01)
        assert noticed.is_set()
