"""Collection is effectively once: whatever is killed, told late or told twice."""

import itertools
import threading
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update

from models import Assignment, Booking, CollectionMark, Decision, FleetSnapshot
from services.dispatching.operating_day import day_of
from services.learning.changes import note_change
from services.learning.collection_report import CollectionError, CollectionReport
from services.learning.collector import collect, expected, rebuild
from services.learning.marks import LEASE
from services.learning.verification import verify
from services.rl.data.experience import Ending
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.data.replay_store import ReplayStoreError

from .conftest import MONDAY
from .simulated_log import COMPANY, ZONE_OF_TESTS, hire, log_day


def contents(loop):
    return {e.id: e for e in loop.store.read(COMPANY)}


def assigned_booking(loop, status="COMPLETED"):
    """A booking that one decision assigned and that ended so; ids of booking and decision."""
    with loop.database.reading() as session:
        return session.execute(
            select(Booking.id, Decision.id)
            .join(Decision, Decision.booking_id == Booking.id)
            .where(Decision.action == "assign", Booking.status == status)
            .order_by(Booking.id)
        ).first()


def mark_of(loop):
    with loop.database.reading() as session:
        return session.get(CollectionMark, COMPANY)


def test_a_collected_store_is_what_sql_says(lived):
    report = collect(lived, COMPANY)
    assert report.advanced and report.decisions > 50
    assert report.decisions == report.assigned + report.folded
    verdict = verify(lived, COMPANY)
    assert verdict.same and verdict.kept == report.experiences == report.kept
    chain = [e for e in expected(lived, COMPANY) if e.action is None]
    assert [e.done for e in chain] == [False] * (len(chain) - 1) + [True]
    for wait, following in itertools.pairwise(chain):
        assert wait.dt == (following.at - wait.at) / timedelta(minutes=5)
        assert wait.next_state is following.state


def test_the_order_of_an_epochs_assignments_is_kept_and_takes_no_time(lived):
    by_epoch = {}
    for e in expected(lived, COMPANY):
        by_epoch.setdefault(e.at, []).append(e)
    several = [epoch for epoch in by_epoch.values() if len(epoch) > 2]
    assert several
    for epoch in several:
        actions = [e.action for e in epoch if e.action is not None]
        assert [e.prior for e in epoch] == [tuple(actions[:n]) for n in range(len(epoch))]
        assert all(e.dt == 0.0 and e.next_state is None for e in epoch[:-1])
        assert epoch[-1].ending is Ending.WAITED


def test_collecting_again_changes_nothing(lived):
    collect(lived, COMPANY)
    before = lived.store.fingerprint(COMPANY)
    report = collect(lived, COMPANY)
    assert lived.store.fingerprint(COMPANY) == before and report.removed == 0
    assert rebuild(lived, COMPANY).rebuilt
    assert lived.store.fingerprint(COMPANY) == before


def test_a_plan_is_valued_beside_what_happened(lived):
    planned = [e for e in expected(lived, COMPANY) if e.ending is Ending.COMPLETED]
    assert planned
    for e in planned:  # on a calm day everything goes as planned
        assert e.planned_pickup_in_min == pytest.approx(e.pickup_in_min, abs=1e-6)
        assert e.planned_reward == pytest.approx(e.reward, abs=1e-6)
        assert e.loss > 0 and e.propensity == 1.0


# --- running days --------------------------------------------------------------------------------


def test_collected_hour_by_hour_a_day_ends_as_collected_at_once(empty, small, monday, clock):
    """The mark never passes what is not known yet, whatever the overlap."""
    with empty.database.writing() as session:
        hire(session, small, monday)
        log_day(session, small, 11, monday)
    config = empty.config.model_copy(update={"collect_overlap_hours": 0.01})
    loop = type(empty)(**{**vars(empty), "config": config})
    for hour in range(0, 60, 2):
        clock.set(monday.start + timedelta(hours=hour))
        report = collect(loop, COMPANY, until=clock.now())
        assert mark_of(loop).decided_before <= clock.now() and report.advanced
    assert verify(loop, COMPANY).same
    assert report.provisional == 0 and report.decisions < 3


def test_the_last_epoch_of_a_running_day_waits_for_the_next(lived, monday, clock):
    clock.set(monday.start + timedelta(hours=4))
    report = collect(lived, COMPANY)
    later = [e for e in contents(lived).values() if e.at > clock.now()]
    assert report.waits_provisional <= 1 and later  # of a process whose clock is ahead
    with lived.database.reading() as session:
        last = session.scalar(select(func.max(FleetSnapshot.id)))
    assert f"wait-{last}" not in contents(lived)
    clock.set(monday.start + timedelta(hours=30))
    collect(lived, COMPANY)
    assert contents(lived)[f"wait-{last}"].done and verify(lived, COMPANY).same


# --- outcomes that change ------------------------------------------------------------------------


def test_a_late_correction_of_an_old_outcome_is_found_by_its_change(lived, clock):
    collect(lived, COMPANY)
    booking_id, decision_id = assigned_booking(lived)
    before = contents(lived)[decision_id]
    clock.advance(minutes=60 * 24 * 30)
    collect(lived, COMPANY)
    with lived.database.writing() as session:
        assignment = session.scalars(
            select(Assignment).where(Assignment.booking_id == booking_id)
        ).one()
        assignment.actual_pickup_at += timedelta(minutes=90)
        assignment.actual_dropoff_at += timedelta(minutes=90)
        note_change(session, session.get(Booking, booking_id), clock.now())
    clock.advance(minutes=5)
    report = collect(lived, COMPANY)
    after = contents(lived)[decision_id]
    assert after.terms.lateness < before.terms.lateness
    assert after.pickup_in_min == pytest.approx(before.pickup_in_min + 90, abs=1e-3)
    assert 0 < report.experiences < report.kept and verify(lived, COMPANY).same


def test_a_clock_that_ran_ahead_for_a_while_hides_no_later_correction(lived, clock):
    clock.advance(minutes=60 * 24 * 30)
    collect(lived, COMPANY)
    booking_id, decision_id = assigned_booking(lived)
    right = clock.now()
    clock.advance(minutes=60 * 24 * 10)  # a wrong time server
    collect(lived, COMPANY)
    clock.set(right + timedelta(minutes=30))
    with lived.database.writing() as session:
        assignment = session.scalars(
            select(Assignment).where(Assignment.booking_id == booking_id)
        ).one()
        assignment.actual_pickup_at += timedelta(minutes=90)
        assignment.actual_dropoff_at += timedelta(minutes=90)
        note_change(session, session.get(Booking, booking_id), clock.now())
    clock.advance(minutes=5)
    before = contents(lived)[decision_id]
    collect(lived, COMPANY)
    assert contents(lived)[decision_id].terms.lateness < before.terms.lateness
    assert verify(lived, COMPANY).same


def test_a_withdrawn_outcome_takes_its_experience_along(lived, clock):
    collect(lived, COMPANY)
    booking_id, decision_id = assigned_booking(lived)
    clock.advance(minutes=60 * 24 * 5)
    with lived.database.writing() as session:
        session.execute(
            update(Assignment)
            .where(Assignment.booking_id == booking_id)
            .values(actual_pickup_at=None, actual_dropoff_at=None, status="ASSIGNED")
        )
        booking = session.get(Booking, booking_id)
        booking.status = "ASSIGNED"
        note_change(session, booking, clock.now())
    report = collect(lived, COMPANY)
    assert report.left_out == {"unreported": 1} and report.removed == 1
    assert decision_id not in contents(lived) and verify(lived, COMPANY).same


def test_an_outcome_told_twice_counts_once(lived):
    booking_id, _ = assigned_booking(lived)
    with lived.database.writing() as session:
        own = session.scalars(select(Assignment).where(Assignment.booking_id == booking_id)).one()
        told = own.actual_pickup_at, own.actual_dropoff_at
        driver = own.driver_id
        own.actual_dropoff_at += timedelta(minutes=1)
        session.add(
            Assignment(
                booking_id=booking_id, driver_id=driver, assigned_at=own.assigned_at,
                status="COMPLETED", actual_pickup_at=told[0], actual_dropoff_at=told[1],
            )
        )  # fmt: skip
    report = collect(lived, COMPANY)
    completions = sum(e.terms.completion > 0 for e in contents(lived).values())
    with lived.database.reading() as session:
        done = session.scalar(
            select(func.count()).select_from(Booking).where(Booking.status == "COMPLETED")
        )
    assert completions + sum(report.left_out.values()) == done


def test_a_deleted_booking_is_left_out_and_taken_out(lived):
    collect(lived, COMPANY)
    booking_id, decision_id = assigned_booking(lived)
    with lived.database.writing() as session:
        session.execute(delete(Assignment).where(Assignment.booking_id == booking_id))
        session.execute(delete(Booking).where(Booking.id == booking_id))
    report = collect(lived, COMPANY)
    assert report.left_out == {"booking_deleted": 1} and report.removed == 1
    assert decision_id not in contents(lived) and verify(lived, COMPANY).same


@pytest.mark.parametrize(
    "wrong", ["before its decision", "before creation", "dropoff before pickup"]
)
def test_impossible_times_make_no_experience(lived, wrong):
    booking_id, decision_id = assigned_booking(lived)
    with lived.database.writing() as session:
        own = session.scalars(select(Assignment).where(Assignment.booking_id == booking_id)).one()
        if wrong == "before its decision":
            own.actual_pickup_at = own.assigned_at - timedelta(minutes=6)
        elif wrong == "before creation":
            booking = session.get(Booking, booking_id)
            booking.created_at = own.actual_pickup_at + timedelta(minutes=1)
        else:
            own.actual_dropoff_at = own.actual_pickup_at - timedelta(minutes=1)
    report = collect(lived, COMPANY)
    assert report.left_out == {"impossible_times": 1}
    assert decision_id not in contents(lived)


def test_clocks_that_differ_by_minutes_are_borne(lived):
    booking_id, decision_id = assigned_booking(lived)
    with lived.database.writing() as session:
        own = session.scalars(select(Assignment).where(Assignment.booking_id == booking_id)).one()
        own.actual_pickup_at = own.assigned_at - timedelta(minutes=4)
        own.assigned_at += timedelta(minutes=3)  # by another machine than the decision
        created = own.actual_pickup_at - timedelta(minutes=1)
        session.get(Booking, booking_id).created_at = created
    assert not collect(lived, COMPANY).left_out
    assert contents(lived)[decision_id].ending is Ending.COMPLETED


def test_a_driver_who_has_gone_changes_nothing_of_what_was_decided(lived):
    from models import Driver

    before = {e.id: e.reward for e in expected(lived, COMPANY)}
    with lived.database.writing() as session:
        session.execute(update(Driver).values(is_active=False))
        gone = session.scalars(select(Driver.id).order_by(Driver.id)).first()
        session.execute(delete(Assignment).where(Assignment.driver_id == gone))
        session.execute(delete(Driver).where(Driver.id == gone))
    report = collect(lived, COMPANY)
    after = {e.id: e.reward for e in expected(lived, COMPANY)}
    assert report.decisions and before.keys() == after.keys()
    withdrawn = [e for e in expected(lived, COMPANY) if e.ending is Ending.WITHDRAWN]
    assert all(e.reward == 0 for e in withdrawn)  # the host knows nothing of them any more
    kept = before.keys() - {e.id for e in withdrawn}
    assert all(before[i] == after[i] for i in kept)


# --- the log -------------------------------------------------------------------------------------


def test_unreadable_states_are_counted_by_reason_and_taken_out(lived):
    collect(lived, COMPANY)
    with lived.database.writing() as session:
        ids = session.scalars(
            select(Decision.snapshot_id)
            .where(Decision.action == "assign")
            .distinct()
            .order_by(Decision.snapshot_id)
        ).all()
        rows = [session.get(FleetSnapshot, i) for i in ids[:6:2]]
        rows[0].payload = b"damaged"
        rows[1].schema = 0
        rows[2].scenario_hash = "f" * 64
    report = collect(lived, COMPANY)
    assert {"damaged_snapshot", "other_schema", "other_scenario"} <= report.left_out.keys()
    assert report.waits_left_out["next_unreadable"] >= 1 and report.removed >= 6
    assert verify(lived, COMPANY).same


def test_an_older_layout_is_read_all_the_same(lived):
    before = collect(lived, COMPANY).experiences
    with lived.database.writing() as session:
        session.execute(update(FleetSnapshot).values(layout=0))
        session.execute(update(Decision).values(layout=0))
    assert collect(lived, COMPANY).experiences == before


def test_shadow_decisions_and_those_without_a_state_are_counted_apart(lived):
    booking_id, decision_id = assigned_booking(lived)
    with lived.database.writing() as session:
        own = session.get(Decision, decision_id)
        for n, (shadow, snapshot) in enumerate(((True, own.snapshot_id), (False, None))):
            session.add(
                Decision(
                    id=f"{n:032x}", snapshot_id=snapshot, seq=9, company_id=COMPANY,
                    booking_id=booking_id, driver_id=own.driver_id, action="assign", k=1,
                    propensity=1.0, arm="rl", unit="", layout=1, latency_ms=0.0,
                    decided_at=own.decided_at - timedelta(minutes=1), shadow=shadow,
                    source="policy" if shadow else "human",
                )
            )  # fmt: skip
    report = collect(lived, COMPANY)
    assert report.shadow == 1 and report.left_out == {"no_snapshot": 1}


def test_counts_that_do_not_add_up_are_an_error():
    report = CollectionReport(1, None, None, decisions=3, assigned=1, folded=1)
    with pytest.raises(CollectionError, match="3 decisions were logged, 2 have a fate"):
        report.check()


# --- killed, doubled, lost -----------------------------------------------------------------------


class _Broken(MemoryReplayStore):
    """A store that stops answering after so many experiences."""

    left = 30

    def put(self, company_id, experiences):
        for experience in experiences:
            if self.left == 0:
                raise ReplayStoreError("the replay store does not answer")
            self.left -= 1
            super().put(company_id, [experience])
        return 0


def test_a_store_that_goes_down_in_mid_run_is_told_and_caught_up_with(lived, clock):
    store = _Broken()
    loop = type(lived)(**{**vars(lived), "store": store})
    with pytest.raises(ReplayStoreError):
        collect(loop, COMPANY)
    before = mark_of(loop)
    assert before.counts.get("report") is None and before.decided_before < clock.now()
    assert len(store.ids(COMPANY)) == 30
    store.left = 1_000_000
    assert collect(loop, COMPANY).advanced and verify(loop, COMPANY).same


def test_a_store_that_was_emptied_is_filled_again(lived, clock):
    collect(lived, COMPANY)
    clock.advance(minutes=60 * 24 * 10)  # far outside the window
    collect(lived, COMPANY)
    lived.store.clear(COMPANY)
    report = collect(lived, COMPANY)
    assert report.rebuilt and verify(lived, COMPANY).same


class _Forgetful(MemoryReplayStore):
    """A Redis that is restarted, empty, in the middle of a run."""

    calls = 0

    def put(self, company_id, experiences):
        self.calls += 1
        if self.calls == 2:
            self.clear(company_id)
        return super().put(company_id, experiences)


def test_a_store_that_was_emptied_in_mid_run_is_filled_again(lived, monkeypatch):
    monkeypatch.setattr("services.learning.collector._BATCH", 20)
    loop = type(lived)(**{**vars(lived), "store": _Forgetful()})
    report = collect(loop, COMPANY)
    assert report.rebuilt and verify(loop, COMPANY).same


class _Killed(BaseException):
    pass


def test_killed_at_any_point_nothing_is_lost(lived, monkeypatch):
    """As kill -9 does: nothing is taken back, no report is written."""
    monkeypatch.setattr("services.learning.collector._BATCH", 25)
    monkeypatch.setattr("services.learning.marks.MarkedRun.give_up", lambda self: None)
    real = MemoryReplayStore.put
    for n in (1, 2, 4):
        calls = iter(range(1, 1000))

        def put(self, company, experiences, n=n, calls=calls):
            given = real(self, company, experiences)
            if next(calls) == n:
                raise _Killed
            return given

        monkeypatch.setattr(MemoryReplayStore, "put", put)
        with pytest.raises(_Killed):
            collect(lived, COMPANY) if n < 4 else rebuild(lived, COMPANY)
    monkeypatch.setattr(MemoryReplayStore, "put", real)
    report = collect(lived, COMPANY)
    assert not report.advanced  # the killed ones may still be writing
    assert verify(lived, COMPANY).same
    lived.clock.advance(seconds=LEASE.total_seconds() + 1)
    assert collect(lived, COMPANY).advanced


def test_two_collectors_at_once_are_harmless(lived, monkeypatch):
    monkeypatch.setattr("services.learning.collector._BATCH", 10)
    together = threading.Barrier(2)
    real = MemoryReplayStore.ids
    met = threading.local()

    def ids(self, company):
        if not getattr(met, "once", False):
            met.once = True
            together.wait(30)
        return real(self, company)

    monkeypatch.setattr(MemoryReplayStore, "ids", ids)
    reports, errors = [], []

    def work():
        try:
            reports.append(collect(lived, COMPANY))
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    monkeypatch.setattr(MemoryReplayStore, "ids", real)
    assert not errors and len(reports) == 2 and not any(r.advanced for r in reports)
    assert verify(lived, COMPANY).same
    assert collect(lived, COMPANY).advanced and verify(lived, COMPANY).same


def test_a_full_store_keeps_the_newest(lived):
    config = lived.config.model_copy(update={"replay_capacity": 40})
    loop = type(lived)(**{**vars(lived), "config": config, "store": MemoryReplayStore(40)})
    report = rebuild(loop, COMPANY)
    newest = sorted(expected(loop, COMPANY), key=lambda e: (e.at, e.id))[-40:]
    assert report.kept == 40 and {e.id for e in newest} == loop.store.ids(COMPANY)
    assert verify(loop, COMPANY).same and collect(loop, COMPANY).rebuilt is False


def test_companies_are_kept_apart(lived, small, monday):
    with lived.database.writing() as session:
        hire(session, small, monday, company=8)
        log_day(session, small, 12, monday, company=8, first_id=5001)
    collect(lived, COMPANY)
    assert lived.store.ids(8) == set()
    collect(lived, 8)
    assert verify(lived, COMPANY).same and verify(lived, 8).same
    assert not lived.store.ids(8) & lived.store.ids(COMPANY)


# --- overrides -----------------------------------------------------------------------------------


def test_an_overridden_decision_is_withdrawn_and_the_persons_stands_for_itself(lived):
    booking_id, decision_id = assigned_booking(lived)
    with lived.database.writing() as session:
        own = session.get(Decision, decision_id)
        assignment = session.scalars(
            select(Assignment).where(Assignment.booking_id == booking_id)
        ).one()
        times = assignment.actual_pickup_at, assignment.actual_dropoff_at
        assignment.status = "CANCELED"
        assignment.actual_pickup_at = assignment.actual_dropoff_at = None
        snapshot = session.get(FleetSnapshot, own.snapshot_id)
        at = own.decided_at + timedelta(seconds=30)
        again = FleetSnapshot(
            **{c.name: getattr(snapshot, c.name) for c in FleetSnapshot.__table__.columns
               if c.name not in ("id", "epoch_at")},
            epoch_at=at,
        )  # fmt: skip
        session.add(again)
        session.flush()
        other = own.driver_id + (1 if own.driver_id % 10 == 0 else -1)
        human = Decision(
            id="f" * 32, snapshot_id=again.id, seq=0, company_id=COMPANY, booking_id=booking_id,
            driver_id=other, action="assign", k=1, propensity=1.0, arm="heuristic", unit="",
            layout=1, latency_ms=0.0, decided_at=at, source="human", features=own.features,
        )  # fmt: skip
        session.add(human)
        session.flush()
        own.overridden_by = human.id
        session.add(
            Assignment(
                booking_id=booking_id, driver_id=other, assigned_at=at, status="COMPLETED",
                actual_pickup_at=times[0], actual_dropoff_at=times[1],
            )
        )  # fmt: skip
    collect(lived, COMPANY)
    found = contents(lived)
    old, new = found[decision_id], found["f" * 32]
    assert old.ending is Ending.WITHDRAWN and old.overridden and old.reward == 0
    assert new.ending is Ending.COMPLETED and new.source == "human" and new.reward > 0
    assert found[f"wait-{again.id}"].source == "human"


def test_what_nobody_could_dispatch_is_nobodys_loss(lived, clock):
    """A host holds bookings without a place; dispatch leaves them alone, and so does reward."""
    before = sum(e.terms.cancellation for e in expected(lived, COMPANY))
    booking_id, _ = assigned_booking(lived)
    with lived.database.writing() as session:
        like = session.get(Booking, booking_id)
        session.add(
            Booking(
                company_id=COMPANY, pickup_lat=999.0, pickup_lon=999.0,
                dropoff_lat=like.dropoff_lat, dropoff_lon=like.dropoff_lon,
                scheduled_time=like.scheduled_time, created_at=like.created_at, status="PENDING",
            )
        )  # fmt: skip
    assert sum(e.terms.cancellation for e in expected(lived, COMPANY)) == before


def test_a_booking_taken_back_from_its_driver_is_lost_to_the_last_decision(lived, clock):
    booking_id, decision_id = assigned_booking(lived)
    with lived.database.writing() as session:
        session.execute(
            update(Assignment)
            .where(Assignment.booking_id == booking_id)
            .values(actual_pickup_at=None, actual_dropoff_at=None, status="CANCELED")
        )
        booking = session.get(Booking, booking_id)
        booking.status = "PENDING"
    day = day_of(MONDAY, lived.scenario.rules, ZONE_OF_TESTS)
    promised = max(booking.scheduled_time, booking.created_at)
    clock.set(max(promised + timedelta(hours=6), day.start))  # not settled yet
    collect(lived, COMPANY)
    assert decision_id not in contents(lived)
    clock.set(promised + timedelta(hours=6, minutes=31))
    collect(lived, COMPANY)
    lost = contents(lived)[decision_id]
    assert lost.ending is Ending.UNSERVED
    assert lost.terms.cancellation == pytest.approx(-lost.loss) and lost.loss > 0
