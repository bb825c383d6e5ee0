"""A logged decision is reproduced from its snapshot."""

import json
import shutil

import pytest
from sqlalchemy import select

from clock import SystemClock
from extensions import Database
from models import Base, Decision, Experiment
from scripts.rl import replay_decision
from scripts.rl.command import exit_code
from services.model_registry import SqlRegistry
from services.rl.serving.bundle import write_bundle
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


def test_a_learned_decision_is_reproduced_by_the_registered_model(tmp_path, atmr_home, monkeypatch):
    url = f"sqlite:///{tmp_path / 'day.sqlite'}"
    monkeypatch.setenv("ATMR_DATABASE_URL", url)
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    scenario = load_scenario("geneva_small")
    database = Database(url)
    Base.metadata.create_all(database.engine)
    registry = SqlRegistry(database, SystemClock())
    bundle = write_bundle(tmp_path / "bundle", "matching", scenario)
    version = registry.register(bundle.path, "ana", "first")
    registry.promote(version, "ana", "go")
    company = Company(url, scenario, 11, registry)
    at = company.clock.now()
    with database.writing() as session:
        session.add(
            Experiment(
                company_id=COMPANY, name="dispatch", mode="ab", unit="booking", salt="s",
                rl_share=1.0, created_at=at, updated_at=at, guardrails={},
            )
        )  # fmt: skip
    company.live(30.0)
    with database.reading() as session:
        decisions = session.scalars(
            select(Decision).where(Decision.arm == "rl", Decision.source == "policy")
        ).all()
    asked = [d for d in decisions if d.model is not None and d.fallback_reason is None]
    assert asked and {d.model for d in asked} == {version}
    assert replay_decision.replay(database, scenario, asked[0].id)["same"] is True
    shutil.rmtree(registry.folders.folder / version)
    assert exit_code(replay_decision.main, [asked[0].id]) == 2
    company.database.dispose()
    database.dispose()


def test_what_cannot_be_replayed_is_one_sentence(company, capsys):
    assert exit_code(replay_decision.main, ["0" * 32]) == 2
    assert "there is no decision" in capsys.readouterr().err
