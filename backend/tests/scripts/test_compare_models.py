"""Comparisons of trained models: unseen days, paired, seeds apart, and an interruption ends all."""

import json

import pytest

from scripts.rl import ablate, compare_models
from scripts.rl.command import exit_code
from services.rl.simulation.scenarios import FIRST_SEED, Split
from services.rl.training.trainer import Trainer, train_model
from tests.rl.training.tiny_runs import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks as they are before any learning: enough to compare."""
    home = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATMR_HOME", str(home))
        for seed in (0, 1):
            train_model("geneva_small", tiny(f"s{seed}", vector_steps=1, seed=seed))
    return [str(home / "results" / f"s{seed}" / "checkpoints" / "best") for seed in (0, 1)]


def compared(models, atmr_home, monkeypatch, *more):
    """Days that were played, and the document."""
    played = []
    book = compare_models.day_book

    def noted(*arguments):
        played.append(book(*arguments))
        return played[-1]

    monkeypatch.setattr(compare_models, "day_book", noted)
    out = atmr_home / "table.json"
    asked = ["--scenario", "geneva_small", "--policies", "dqn_matching", "--json", str(out)]
    assert exit_code(compare_models.main, [*asked, "--models", *models, *more]) == 0
    return played[0].seeds, json.loads(out.read_text())


def test_models_are_compared_on_validation_days_that_chose_none(models, atmr_home, monkeypatch):
    seeds, document = compared(models, atmr_home, monkeypatch, "--days", "2")
    first = FIRST_SEED[Split.VALIDATION]
    assert seeds == (first + 1_000, first + 1_001)
    table = document["tables"][0]
    row = next(r for r in table["rows"] if r["policy"] == "dqn_matching")
    assert row["matching"]["worst"] <= row["matching"]["mean"]
    assert row["matching"]["worst_model"] in models


def test_one_day_has_no_interval_and_is_written_all_the_same(
    models, atmr_home, monkeypatch, capsys
):
    asked = ["--days", "1", "--split", "test"]
    seeds, document = compared(models, atmr_home, monkeypatch, *asked)
    assert seeds == (FIRST_SEED[Split.TEST],)
    assert document["tables"][0]["rows"][-1]["matching"]["half"] is None
    assert "inf" not in capsys.readouterr().out


def test_an_interrupted_ablation_ends(atmr_home, monkeypatch):
    begun = []

    def pressed(self):
        begun.append(self.config.experiment_name)
        self._interrupt(2, None)

    monkeypatch.setattr(Trainer, "_vector_step", pressed)
    asked = ["--scenario", "geneva_small", "--variants", "untaught,1-step", "--seeds", "1"]
    assert exit_code(ablate.main, [*asked, "--timesteps", "64", "--days", "1"]) == 130
    assert len(begun) == 1
    assert not list((atmr_home / "results").glob("*/dqn_model_final"))


@pytest.mark.slow
def test_an_ablation_shows_its_seeds(atmr_home, capsys):
    out = atmr_home / "rows.json"
    asked = ["--scenario", "geneva_small", "--variants", "untaught,1-step", "--seeds", "2"]
    assert (
        exit_code(ablate.main, [*asked, "--timesteps", "1", "--days", "2", "--json", str(out)]) == 0
    )
    row = next(r for r in json.loads(out.read_text())["rows"] if r["variant"] == "1-step")
    assert len(row["by_seed"]) == 2
    assert sum(row["by_seed"]) / 2 == pytest.approx(row["difference"])
