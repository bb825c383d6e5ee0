"""A logged decision is reproduced from its snapshot."""

import json

import pytest

from scripts.rl import replay_decision
from scripts.rl.command import exit_code
from services.rl.simulation.scenarios import load_scenario
from tests.dispatching.companies import COMPANY, Company


@pytest.fixture
def company(tmp_path, atmr_home, monkeypatch):
    url = f"sqlite:///{tmp_path / 'day.sqlite'}"
    monkeypatch.setenv("ATMR_DATABASE_URL", url)
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    made = Company(url, load_scenario("geneva_small"), 11)
    yield made
    made.database.dispose()


def test_every_decision_of_an_epoch_is_reproduced(company, tmp_path, capsys):
    company.live(60.0)
    assigned = deferred = None
    while assigned is None or deferred is None:
        company.book()
        company.drive()
        fates = company.dispatcher.dispatch(COMPANY).fates
        assigned = assigned or next((f for f in fates if f.driver_id is not None), None)
        deferred = deferred or next((f for f in fates if f.driver_id is None), None)
        company.clock.advance(minutes=company.scenario.rules.epoch_min)
    for fate in (assigned, deferred):
        out = tmp_path / "decision.json"
        code = exit_code(replay_decision.main, [fate.decision_id, "--json", str(out)])
        assert code == 0
        found = json.loads(out.read_text())
        assert found["same"] is True
        assert found["replayed"]["driver_id"] == fate.driver_id
    chosen = replay_decision.replay(company.database, company.scenario, assigned.decision_id)
    own = next(a for a in chosen["alternatives"] if a["driver_id"] == assigned.driver_id)
    assert own["deadhead_km"] == pytest.approx(
        chosen["logged"]["features"]["deadhead_km"], abs=2e-3
    )
    assert "the same" in capsys.readouterr().out


def test_what_cannot_be_replayed_is_one_sentence(company, capsys):
    assert exit_code(replay_decision.main, ["0" * 32]) == 2
    assert "there is no decision" in capsys.readouterr().err
