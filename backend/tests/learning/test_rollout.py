"""From candidate to champion and back: what happens by itself, and what waits for a person."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from clock import FixedClock
from config import Config
from migrations import upgrade
from models import Decision, Experiment, ExperimentEvent
from services.dispatching.experiments import SqlExperiment
from services.learning.loop import open_loop
from services.learning.rollout import LOOP, SHADOW_DECISIONS, SHADOW_FOR, roll_out
from services.rl.serving.bundle import PLANNER, write_bundle
from services.rl.simulation.scenarios import load_scenario

GENEVA = load_scenario("geneva")
COMPANY = 7


@pytest.fixture
def loop(atmr_home):
    config = Config.from_environment(rollout="auto")
    clock = FixedClock(datetime(2026, 3, 2, 8, tzinfo=UTC))
    with open_loop(config, clock=clock) as opened:
        upgrade(opened.database.engine)
        yield opened


def candidate(loop, tmp_path, moves, who=LOOP):
    bundle = write_bundle(tmp_path / f"b{moves}", PLANNER, GENEVA, policy={"moves": moves})
    return loop.registry.register(bundle.path, who, "passed the gate")


def step(loop, answer="undecided"):
    return [each.did for each in roll_out(loop, COMPANY, lambda _loop, _company: answer)]


def mode(loop):
    return SqlExperiment(loop.database, COMPANY).current().mode


def log_shadow(loop, count, fallbacks=0):
    now = loop.clock.now()
    with loop.database.writing() as session:
        for n in range(count):
            session.add(
                Decision(
                    id=f"{n:032x}", seq=n, company_id=COMPANY, booking_id=1, action="defer",
                    arm="rl", unit="", layout=1, latency_ms=1.0, decided_at=now, shadow=True,
                    fallback_reason="budget" if n < fallbacks else None,
                )
            )  # fmt: skip


def in_trial(loop, tmp_path):
    """A first model in shadow, then sharing; its version."""
    version = candidate(loop, tmp_path, 200)
    assert step(loop) == ["promoted", "shadow_begun"]
    log_shadow(loop, SHADOW_DECISIONS)
    loop.clock.advance(minutes=SHADOW_FOR / timedelta(minutes=1))
    assert step(loop) == ["ab_begun"]
    return version


def test_a_first_model_goes_through_a_day_of_shadow_before_it_decides(loop, tmp_path):
    version = candidate(loop, tmp_path, 200)
    assert step(loop) == ["promoted", "shadow_begun"]
    assert loop.registry.alias(COMPANY, "champion") == version
    log_shadow(loop, SHADOW_DECISIONS)
    assert step(loop) == [] and mode(loop) == "shadow"
    loop.clock.advance(minutes=SHADOW_FOR / timedelta(minutes=1))
    assert step(loop) == ["ab_begun"] and mode(loop) == "ab"
    assert step(loop) == []
    with loop.database.reading() as session:
        kinds = session.scalars(select(ExperimentEvent.kind).order_by(ExperimentEvent.id)).all()
    assert kinds == ["created", "changed", "changed"]  # the model was there before


@pytest.mark.parametrize(("count", "fallbacks"), [(SHADOW_DECISIONS - 1, 0), (200, 40)])
def test_too_little_or_troubled_shadow_waits(loop, tmp_path, count, fallbacks):
    candidate(loop, tmp_path, 200)
    step(loop)
    log_shadow(loop, count, fallbacks)
    loop.clock.advance(minutes=SHADOW_FOR / timedelta(minutes=1))
    assert step(loop) == ["waits"] and mode(loop) == "shadow"


def test_a_stopped_arm_brings_the_model_before_it_back_once(loop, tmp_path):
    first = in_trial(loop, tmp_path)
    second = candidate(loop, tmp_path, 300)
    assert step(loop) == ["promoted"]
    loop.clock.advance(minutes=10)
    SqlExperiment(loop.database, COMPANY).stop("too late", loop.clock.now())
    assert step(loop) == ["rolled_back"]
    assert loop.registry.alias(COMPANY, "champion") == first
    assert step(loop) == []  # and stays stopped: a person lets it run again
    SqlExperiment(loop.database, COMPANY).resume("ops", "checked", loop.clock.now())
    assert step(loop) == []  # what was taken back is not promoted again
    assert loop.registry.alias(COMPANY, "champion") == first != second


def test_a_worse_arm_is_stopped_and_taken_back(loop, tmp_path):
    first = in_trial(loop, tmp_path)
    candidate(loop, tmp_path, 300)
    step(loop)
    loop.clock.advance(minutes=10)
    assert step(loop, "worse") == ["stopped", "rolled_back"]
    assert loop.registry.alias(COMPANY, "champion") == first
    assert SqlExperiment(loop.database, COMPANY).current().stopped


def test_the_first_model_of_all_has_nothing_to_go_back_to_and_stays_stopped(loop, tmp_path):
    in_trial(loop, tmp_path)
    assert step(loop, "worse") == ["stopped", "waits"]
    assert SqlExperiment(loop.database, COMPANY).current().stopped


def test_evidence_begins_afresh_with_another_model(loop, tmp_path):
    in_trial(loop, tmp_path)
    before = SqlExperiment(loop.database, COMPANY).current().version
    candidate(loop, tmp_path, 300)
    loop.clock.advance(minutes=10)
    assert step(loop) == ["promoted"]
    assert SqlExperiment(loop.database, COMPANY).current().version > before


def test_a_persons_candidate_and_a_persons_switch_are_left_to_persons(loop, tmp_path):
    candidate(loop, tmp_path, 200, who="ops")
    assert step(loop) == []
    with loop.database.writing() as session:
        row = Experiment(
            company_id=COMPANY, name="dispatch", mode="off", unit="switchback", salt="s",
            block_min=60, guardrails={}, created_at=loop.clock.now(), updated_at=loop.clock.now(),
        )  # fmt: skip
        session.add(row)
        session.flush()
        session.add(
            ExperimentEvent(
                experiment_id=row.id, at=loop.clock.now(), kind="heuristic_only", who="ops",
                why="precaution", data={},
            )
        )  # fmt: skip
    candidate(loop, tmp_path, 300)
    assert step(loop) == ["waits"] and mode(loop) == "off"


def test_a_person_who_takes_the_arm_back_to_shadow_finds_it_there_days_later(loop, tmp_path):
    in_trial(loop, tmp_path)
    with loop.database.writing() as session:
        row = session.scalars(select(Experiment).where(Experiment.company_id == COMPANY)).one()
        now = loop.clock.now()
        row.mode, row.updated_at = "shadow", now
        session.add(
            ExperimentEvent(
                experiment_id=row.id, at=now, kind="changed", who="ops", why="complaints",
                data={"mode": ["ab", "shadow"]},
            )
        )  # fmt: skip
        for decision in session.scalars(select(Decision)):
            decision.decided_at = now + timedelta(hours=1)
    loop.clock.advance(minutes=3 * SHADOW_FOR / timedelta(minutes=1))
    assert step(loop) == ["waits"] and mode(loop) == "shadow"


def test_a_candidate_that_was_judged_against_another_champion_waits(loop, tmp_path):
    """Such as one trained from, and held against, a model that was taken back since."""
    first = in_trial(loop, tmp_path)
    candidate(loop, tmp_path, 300)
    assert step(loop) == ["promoted"]  # does harm
    candidate(loop, tmp_path, 400)  # of that night: better than the harmful one
    loop.clock.advance(minutes=10)
    SqlExperiment(loop.database, COMPANY).stop("too late", loop.clock.now())
    assert step(loop) == ["rolled_back"]
    loop.clock.advance(minutes=10)
    SqlExperiment(loop.database, COMPANY).resume("ops", "checked", loop.clock.now())
    assert step(loop) == ["waits"]
    assert loop.registry.alias(COMPANY, "champion") == first
    fifth = candidate(loop, tmp_path, 500)  # of the next night
    assert step(loop) == ["promoted"]
    assert loop.registry.alias(COMPANY, "champion") == fifth


def test_by_default_nothing_is_promoted_by_itself(loop, tmp_path, atmr_home):
    candidate(loop, tmp_path, 200)
    with open_loop(Config.from_environment(), clock=loop.clock) as manual:
        assert roll_out(manual, COMPANY, lambda _loop, _company: "worse") == []
    assert loop.registry.alias(COMPANY, "champion") is None
