"""A night of learning: what it registers, what it never touches, how it survives being killed."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from extensions import Database
from migrations import upgrade
from services.learning.locks import FencedLocks, LockLostError
from services.learning.retraining import LOCK, RetrainingBusyError, RetrainingReport, retrain
from services.rl.errors import TrainingError
from services.rl.training import planner_learner
from services.rl.training.learners import TINY
from tests.learning.histories import busier, drawn, write_days
from tests.rl.data.experiences import experiences
from tests.rl.serving.models import bundle_of

from .retraining_nights import MONDAY, NIGHT, SMALL, gate_that_says, loop_at

BACKEND = Path(__file__).resolve().parents[2]


@pytest.fixture
def loop(atmr_home):
    database = Database(f"sqlite:///{atmr_home / 'atmr.sqlite'}")
    upgrade(database.engine)
    write_days(database, SMALL, drawn(busier(SMALL, 1.4, {}), 6, 1), MONDAY)
    database.dispose()
    opened = loop_at(atmr_home, NIGHT)
    yield opened
    opened.database.dispose()


@pytest.fixture
def champion(loop, tmp_path):
    version = loop.registry.register(bundle_of("planner", tmp_path).path, "ana", "first", company=1)
    loop.registry.promote(version, "ana", "first", company=1)
    return version


@pytest.fixture
def found(monkeypatch):
    """Whatever evolution finds counts as better than the champion."""
    monkeypatch.setattr(
        planner_learner, "_checked", lambda _w, c, *_: {n: float(i) for i, n in enumerate(c)}
    )


def night(loop, gate, **options):
    return retrain(loop, 1, budget=TINY, gate=gate, **{"kinds": ["planner"], **options})


def test_what_passes_the_gate_becomes_the_companys_candidate(loop, champion, found):
    loop.store.put(1, experiences(5))
    gate = gate_that_says(planner=3.0)
    report = night(loop, gate)
    assert gate.asked[0][0] == "planner"
    assert gate.asked[0][1].version == champion
    assert gate.asked[0][2] == 5
    assert report.registered == report.kinds[0].version
    assert loop.registry.alias(1, "candidate") == report.registered
    assert loop.registry.alias(2, "candidate") != report.registered
    assert loop.registry.alias(1, "champion") == champion
    event = loop.registry.history(1)[-1]
    assert event.who == "retraining"
    assert (loop.home / event.gate_report).is_file()
    assert loop.registry.get(report.registered).manifest.parent == champion
    assert report.changes["bookings_per_day"]["now"] > report.changes["bookings_per_day"]["then"]
    text = (report.folder / "report.md").read_text()
    assert report.registered in text
    assert "bookings_per_day" in text
    assert RetrainingReport.read(report.folder) == report


@pytest.mark.slow  # imports Torch and trains a network: half a minute
def test_the_best_of_several_kinds_is_registered(loop, champion, found):
    report = night(
        loop, gate_that_says(planner=1.0, dqn_matching=2.0), kinds=["planner", "dqn_matching"]
    )
    kinds = {kind.kind: kind for kind in report.kinds}
    assert report.registered == kinds["dqn_matching"].version
    assert kinds["planner"].why == "dqn_matching gained more"
    assert kinds["dqn_matching"].nightly["teacher"] == f"planner {kinds['planner'].version}"


def test_what_the_gate_refuses_is_registered_nowhere(loop, champion, found):
    report = night(loop, gate_that_says(planner=-1.0))
    assert report.registered is None
    assert report.kinds[0].failed == ["champion.reward"]
    assert loop.registry.alias(1, "candidate") is None
    assert loop.registry.versions() == [champion]
    assert loop.registry.alias(1, "champion") == champion


def test_what_the_gates_days_rank_below_the_champion_is_no_candidate(loop, champion, found):
    """The margins are for chance; a loss within them, every night, would be a loss without end."""
    report = night(loop, gate_that_says(margin=0.75, planner=-0.3))
    assert report.kinds[0].go and report.registered is None
    assert "-0.30 % of worth" in report.kinds[0].why
    assert loop.registry.versions() == [champion]


def test_a_person_who_changes_the_champion_during_the_night_is_not_overruled(
    loop, champion, found, tmp_path
):
    says = gate_that_says(planner=1.0)
    other = bundle_of("matching", tmp_path).path

    def gate(*asked):
        version = loop.registry.register(other, "ana", "safer", company=1)
        loop.registry.promote(version, "ana", "safer", company=1)
        return says(*asked)

    report = night(loop, gate)
    assert report.registered is None and report.kinds[0].go is None
    assert "is champion now" in report.kinds[0].why
    assert loop.registry.alias(1, "candidate") is None


def test_a_champion_that_stays_the_best_is_not_judged_against_itself(loop, champion, monkeypatch):
    monkeypatch.setattr(
        planner_learner, "_checked", lambda _w, c, *_: {n: -float(i) for i, n in enumerate(c)}
    )
    gate = gate_that_says(planner=1.0)
    report = night(loop, gate)
    assert gate.asked == []
    assert report.registered is None
    assert report.kinds[0].why == "nothing better than the champion was found"


def test_without_a_champion_the_first_night_makes_one_to_choose(loop, found):
    report = night(loop, gate_that_says(planner=0.5))
    assert report.champion is None
    assert report.registered is not None
    assert loop.registry.alias(1, "champion") is None, "promotion is not for the night to decide"


def test_nothing_is_trained_while_the_champion_cannot_be_read(loop, champion, found):
    (loop.home / "models" / champion / "planner.json").write_text("{}")
    gate = gate_that_says(planner=1.0)
    report = night(loop, gate)
    assert (report.kinds, report.registered, gate.asked) == ([], None, [])
    assert "while the champion cannot be read" in report.notes[0]


def test_a_kind_that_fails_does_not_keep_the_others_from_learning(
    loop, champion, found, monkeypatch
):
    def broken(*_, **__):
        raise TrainingError("no luck")

    monkeypatch.setattr("services.rl.training.network_learner.DqnMatchingLearner.update", broken)
    report = night(loop, gate_that_says(planner=1.0), kinds=["dqn_matching", "planner"])
    assert report.kinds[0].why == "the update failed: no luck"
    assert report.registered == report.kinds[1].version


def test_a_second_retraining_at_once_is_refused(loop, champion):
    held = FencedLocks(loop.database, loop.clock).acquire(LOCK, "other", timedelta(hours=1))
    with pytest.raises(RetrainingBusyError, match="under way"):
        night(loop, gate_that_says(planner=1.0))
    assert FencedLocks(loop.database, loop.clock).release(held)


def test_a_night_that_lost_its_lock_registers_nothing(loop, champion, found):
    locks = FencedLocks(loop.database, loop.clock)
    inner = gate_that_says(planner=1.0)

    def gate(*arguments):
        with loop.database.writing() as session:  # somebody else, hours later
            from models.learning import FencedLock

            session.get(FencedLock, LOCK).token += 1
        return inner(*arguments)

    with pytest.raises(LockLostError):
        night(loop, gate)
    assert loop.registry.alias(1, "candidate") is None
    assert loop.registry.versions() == [champion]
    assert locks is not None


def test_a_finished_night_is_told_again_and_not_repeated(loop, champion, found):
    gate = gate_that_says(planner=1.0)
    first = night(loop, gate)
    assert night(loop, gate) == first
    assert len(gate.asked) == 1
    assert len(loop.registry.versions()) == 2


def test_a_company_in_which_nothing_has_happened_yet_trains_nothing(loop, champion, found):
    gate = gate_that_says(planner=1.0)
    report = retrain(loop, 9, kinds=["planner"], budget=replace(TINY, minutes=5.0), gate=gate)
    assert (report.kinds, gate.asked, report.finished) == ([], [], False)
    assert report.notes == [
        "the served demand is trained on: there is no history yet",
        "nothing has happened yet: there is nothing to learn from",
    ]


def test_experiences_without_a_history_are_learned_from_in_the_served_world(loop, champion, found):
    loop.store.put(9, experiences(5, company_id=9))
    report = retrain(
        loop, 9, kinds=["planner"], budget=replace(TINY, minutes=5.0),
        gate=gate_that_says(planner=1.0),
    )  # fmt: skip
    assert report.notes == ["the served demand is trained on: there is no history yet"]
    assert report.kinds[0].version is not None


@pytest.mark.parametrize(
    "kills", [2, pytest.param(8, marks=pytest.mark.slow)], ids=["2 kills", "8 kills"]
)
def test_a_night_killed_at_random_points_ends_as_one_that_was_not(loop, champion, kills):
    """By progress told, not by the clock: so every stage is cut somewhere."""
    chance = random.Random(kills)
    loop.database.dispose()
    environment = {**os.environ, "PYTHONPATH": str(BACKEND)}
    kinds = "planner" if kills < 3 else "planner,dqn_matching"
    said, killed = [], 0
    for attempt in range(100):
        command = [
            *(sys.executable, "-m", "tests.learning.retraining_nights"),
            *(str(loop.home), str(31 * attempt), kinds),
        ]
        process = subprocess.Popen(
            command, cwd=BACKEND, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        # A random number of its lines, then dead: by progress, not by the clock.
        lines = chance.randint(1, 3 + 3 * killed) if killed < kills else 10_000
        for _ in range(lines):
            line = process.stdout.readline()
            said.append(line)
            if not line:
                break
        else:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.stdout.close()
        code = process.wait()
        assert loop.registry.alias(1, "champion") == champion
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
    versions = loop.registry.versions()
    assert len(versions) <= 2, "a night registers once, however often it was begun"
    report = RetrainingReport.read(loop.home / "results" / "retraining" / "2026-03-08-1")
    assert report is not None
    assert report.registered == loop.registry.alias(1, "candidate") or report.registered is None
    assert killed >= 1


def test_torch_is_not_imported_before_a_network_is_updated():
    program = (
        "import sys, services.learning.retraining, services.rl.training.learners, "
        "services.rl.training.planner_learner; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        check=False,
    )
    assert done.returncode == 0
