"""What limits an evaluation's results is said: days that chose the model, a busy machine."""

import hashlib
import json

import numpy as np
import pytest

from services.rl.evaluation.caveats import caveats
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.runner import DayBook, DayResults
from services.rl.policies.model_files import MODEL_FILE, ModelManifest, file_sha256
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Split, load_scenario

SMALL = load_scenario("geneva_small")
SHA = hashlib.sha256(b"weights").hexdigest()
LEARNED = [DayResults("dqn", np.zeros((1, len(KPIS))), np.ones(1), model_sha=SHA)]
BASELINES = [DayResults("nearest", np.zeros((1, len(KPIS))), np.ones(1))]


class TenDays:
    """A source of ten validation days."""

    def labels(self, split):
        return [f"2025-03-{d:02d}" for d in range(1, 11)] if split is Split.VALIDATION else ["t"]


@pytest.fixture
def model(tmp_path):
    """A model chosen on the first 8 validation days of geneva_small."""
    folder = tmp_path / "first" / "checkpoints" / "best"
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(b"weights")
    manifest = ModelManifest({}, {"scenario": "geneva_small"}, 1.0, "dqn", 7).with_files(
        {MODEL_FILE: file_sha256(folder / MODEL_FILE)}
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    config = {"config": {"evaluation": {"n_eval_episodes": 8}}}
    (tmp_path / "first" / "training_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("split", "count", "first", "begins"),
    [
        (Split.VALIDATION, 5, 0, "these days chose the model: the first 8 validation days"),
        (Split.VALIDATION, 8, 4, "4 of these 8 days chose the model"),
        (Split.VALIDATION, 5, 8, None),
        (Split.TEST, 5, 0, None),
    ],
)
def test_days_that_chose_the_model_are_named(model, split, count, first, begins):
    book = day_book(SMALL, None, split, count, first)
    found = caveats(book, split, LEARNED, model, 0.0)
    if begins is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(begins)
        assert found[0].endswith("use --split test or --first-day 8")


def test_another_scenario_was_not_judged_on(model):
    book = day_book(load_scenario("geneva"), None, Split.VALIDATION, 5)
    assert caveats(book, Split.VALIDATION, LEARNED, model, 0.0) == []


def test_real_days_that_chose_the_model_are_named(model):
    book = DayBook(SMALL, ("2025-03-08", "2025-03-09"), source=TenDays())
    (note,) = caveats(book, Split.VALIDATION, LEARNED, model, 0.0)
    assert note.startswith("1 of these 2 days chose the model: the first 8")


def test_a_damaged_training_configuration_is_said_and_costs_no_result(model):
    (model.parents[1] / "training_config.json").write_text("{")
    book = day_book(SMALL, None, Split.VALIDATION, 5)
    (note,) = caveats(book, Split.VALIDATION, LEARNED, model, 0.0)
    assert "cannot be read: these days may have chosen the model" in note


def test_a_model_that_no_policy_uses_is_said(model):
    book = day_book(SMALL, None, Split.VALIDATION, 5)
    (note,) = caveats(book, Split.VALIDATION, BASELINES, model, 0.0)
    assert "was not used: none of the policies decides by what it holds" in note
    # Values of a planner have a hash as well, but not that of this model.
    planner = [DayResults("planner", np.zeros((1, len(KPIS))), np.ones(1), model_sha="other")]
    assert caveats(book, Split.VALIDATION, planner, model, 0.0) == [note]
    assert caveats(book, Split.VALIDATION, BASELINES, None, 0.0) == []


def test_a_busy_machine_is_said(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    book = day_book(SMALL, None, Split.VALIDATION, 5)
    assert caveats(book, Split.VALIDATION, BASELINES, None, 3.9) == []
    (note,) = caveats(book, Split.VALIDATION, BASELINES, None, 4.5)
    assert "busy machine (load average 4.5 on 4 cores)" in note


def test_planner_values_were_not_chosen_on_validation_days(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "best"
    folder.mkdir(parents=True)
    (folder / "planner.json").write_bytes(b"weights")
    (tmp_path / "run" / "training_config.json").write_text('{"policy": "planner", "config": {}}')
    book = day_book(SMALL, None, Split.VALIDATION, 5)
    assert caveats(book, Split.VALIDATION, LEARNED, folder, 0.0) == []
