"""A confirmation: its intervals hold, and what it claims it has measured on test days alone."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest

from services.rl import paths
from services.rl.errors import TrainingError, UsageError
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.tuning import confirm as room
from services.rl.training.tuning import trainings
from services.rl.training.tuning.confirm import ConfirmPlan, confirm
from services.rl.training.tuning.crossed import crossed_difference, crossed_gain, rank_correlation
from services.rl.training.tuning.report import write_report
from services.rl.training.tuning.search_space import Parameter, SearchSpace
from services.rl.training.tuning.study import best_trials, open_study
from services.rl.training.tuning.worker import ORDER, order_of, work

from .toy_studies import Hill, toy


def two_way(rng, seeds, days, of_seed, of_day, rest, gain=0.0):
    noise = of_seed * rng.standard_normal((seeds, 1)) + of_day * rng.standard_normal((1, days))
    return gain + noise + rest * rng.standard_normal((seeds, days))


@pytest.mark.parametrize(
    ("of_seed", "of_day", "rest"), [(3.0, 5.0, 8.0), (0.0, 5.0, 8.0), (5.0, 0.0, 8.0), (0, 0, 8)]
)
def test_the_interval_covers_the_truth_19_times_of_20_whatever_varies(of_seed, of_day, rest):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(800):
        a = two_way(rng, 4, 60, of_seed, of_day, rest, gain=2.0)
        found = crossed_difference(a, np.zeros_like(a))
        covered += found.low <= 2.0 <= found.high
    assert covered >= 0.93 * 800


def test_an_interval_over_days_alone_would_not():
    """What the crossed interval is for: three lucky seeds on many days prove little."""
    from services.rl.evaluation.paired import estimate

    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        a = two_way(rng, 3, 100, 5.0, 1.0, 5.0)
        found = estimate(a.mean(axis=0))
        covered += found.low <= 0.0 <= found.high
    assert covered < 0.6 * 400


def test_a_gain_is_in_percent_of_the_default_and_unknown_below_zero():
    rng = np.random.default_rng(3)
    default = 500 + two_way(rng, 3, 100, 0.5, 20.0, 1.0)
    better = 1.1 * default
    gain = crossed_gain(better, default)
    assert gain.mean == pytest.approx(10.0)
    assert 9.9 < gain.low < 10.0 < gain.high < 10.1
    assert np.isnan(crossed_gain(better, default - 1_000).mean)
    unsure = two_way(rng, 3, 100, 5.0, 20.0, 1.0)  # its mean may be 0
    assert np.isnan(crossed_gain(unsure + 50, unsure).mean)


@pytest.mark.parametrize("truth", [10.0, 200.0])
def test_a_gain_over_a_default_near_zero_is_covered_as_often_as_said(truth):
    rng = np.random.default_rng(11)
    covered = known = 0
    for _ in range(300):
        days = rng.normal(0.0, 60.0, 100)
        default = 30 + days + two_way(rng, 5, 100, 4.0, 10.0, 20.0)
        better = 30 * (1 + truth / 100) + days + two_way(rng, 5, 100, 4.0, 10.0, 20.0)
        gain = crossed_gain(better, default)
        if np.isfinite(gain.mean):
            known += 1
            covered += gain.low <= truth <= gain.high
    assert known > 200
    assert covered / known > 0.93


def test_ranks_of_few_candidates_are_compared_exactly():
    found = rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0])
    assert found["rho"] == pytest.approx(1.0) and found["p"] == pytest.approx(1 / 24)
    assert rank_correlation([1.0, 2.0], [1.0, 2.0])["rho"] is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])["rho"] is None


def test_too_few_seeds_and_a_study_with_nothing_to_confirm_are_refused(storage, tmp_path):
    order = toy(tmp_path, trials=1)
    study = open_study(order.setup(), storage, resume=False)
    work(order)
    with pytest.raises(UsageError, match="at least 3"):
        confirm(study, order, ConfirmPlan(seeds=2))
    with pytest.raises(UsageError, match="nothing to confirm"):
        confirm(study, order, ConfirmPlan())


# --- a whole confirmation, on the toy ---------------------------------------------------------


class Played:
    """Stands for playing: a model earns its height, more on test days if it is told so.

    Attributes:
        books: Days that were played, by model.
        bonus: What other models than the default's earn more on test days.
        waits: What they make patients wait longer there.
    """

    def __init__(self):
        self.books = []
        self.bonus = self.waits = 0.0

    def __call__(self, _policy, book, folders, *, transfer=False):
        models = [json.loads((folder / "toy.json").read_text()) for folder in folders]
        self.books.append((models, book.labels))
        height = models[0]["values"]["height"]
        rng = np.random.default_rng([int(book.labels[0].split(":")[1]), int(1000 * height)])
        noise = rng.standard_normal((len(models), len(book)))
        test = book.labels[0] == "seed:2000000"
        own = np.array([[m["values"]["height"]] for m in models])
        extra = test & (own != 5.0)  # not the default's
        tables = {kpi: np.zeros_like(noise) for kpi in KPIS}
        tables["reward"] = own + 0.01 * noise + extra * self.bonus
        tables["wait_p95_min"] = 20.0 + 0.01 * noise + extra * self.waits
        return tables


@pytest.fixture
def played(monkeypatch):
    found = Played()
    monkeypatch.setattr(room, "_played", found)
    return found


@pytest.fixture
def searched(storage, tmp_path):
    """A study of the hill, its order and its best trial's height, which is above the default's."""
    order = toy(tmp_path, trials=10, pruning=False)
    study = open_study(order.setup(), storage, resume=False)
    work(order)
    best = best_trials(study, 1)[0].params["height"]
    assert best > 5.0
    return study, order, best


PLAN = ConfirmPlan(top=2, seeds=4, choice_days=10, test_days=12)


def winner_of(home):
    return json.loads((home / "results" / "toy" / "winner.json").read_text())


def test_fresh_seeds_and_days_choose_and_test_days_prove(searched, played, atmr_home):
    study, order, best = searched
    found = confirm(study, order, PLAN, provenance={"command": "x", "commit": "y"})
    assert found["candidate"] == found["winner"] and found["test"]["claimed"]
    assert (
        winner_of(atmr_home)["height"]
        == best
        == pytest.approx(
            next(c for c in found["candidates"] if c["name"] == found["winner"])["values"]["height"]
        )
    )
    for models, labels in played.books:
        assert [m["seed"] for m in models] == [1000, 1001, 1002, 1003]
        assert labels[0] in ("seed:1010000", "seed:2000000")
    proven = [m[0]["values"]["height"] for m, labels in played.books if labels[0] == "seed:2000000"]
    assert sorted(proven) == sorted([best, 5.0]), "test days see the candidate and the default only"
    assert [len(labels) for _, labels in played.books] == [10, 10, 10, 12, 12]


def test_the_command_that_trains_the_winner_holds_no_place_of_this_machine(searched, played):
    study, order, _ = searched
    command = confirm(study, order, PLAN)["train"]
    assert command.endswith("--config results/toy/winner.json --name toy.winner")
    assert str(paths.home()) not in command


def test_the_default_counts_in_the_ranks_also_where_a_value_is_a_list(
    storage, tmp_path, played, monkeypatch
):
    space = SearchSpace((Parameter("height", 0.0, 10.0), Parameter("kind", choices=((1, 2), (3,)))))
    monkeypatch.setattr(Hill, "fields", lambda _: {"height": 5.0, "kind": [1, 2]})
    order = toy(tmp_path, trials=12, space=space)
    study = open_study(order.setup(), storage, resume=False)
    work(order)
    found = confirm(study, order, PLAN)
    assert found["rank_correlation"]["n"] == PLAN.top + 1


def test_a_default_that_has_changed_since_the_study_has_no_screening_score(
    searched, played, monkeypatch
):
    study, order, _ = searched
    kept = confirm(study, order, PLAN)["candidates"][0]
    assert kept["name"] == "default" and kept["screening"] == 5.0
    monkeypatch.setattr(Hill, "fields", lambda _: {"height": 9.0, "kind": "a"})
    changed = confirm(study, order, PLAN)["candidates"][0]
    assert changed["values"]["height"] == 9.0 and changed["screening"] is None


def test_a_study_can_be_confirmed_though_its_space_leaves_out_todays_default(storage, tmp_path):
    kept = {**DEFAULT_ORDER, "space": {"hyperparameters.batch_size": {"choices": [64, 128]}}}
    study = optuna.create_study(storage=storage, study_name="old")
    study.set_user_attr(ORDER, {**kept, "scenario": toy(tmp_path).scenario.model_dump(mode="json")})
    order = order_of(study, None)
    assert order.space.parameters[0].choices == (64, 128)


DEFAULT_ORDER = {
    "policy": "qnetwork", "mode": "quick", "sampler": "tpe", "pruning": True, "seed": 0,
    "steps": None, "days": 64, "data_dir": None,
}  # fmt: skip


def test_the_same_look_is_counted_once_and_another_choice_is_another_look(
    searched, played, atmr_home
):
    study, order, _ = searched
    other = replace(PLAN, test_days=8)
    for plan in (PLAN, other, PLAN, other):
        found = confirm(study, order, plan)
    assert [look["plan"]["test_days"][2] for look in found["earlier"]] == [12]
    work(replace(order, trials=40))
    found = confirm(study, replace(order, trials=40), other)
    assert len(found["earlier"]) == 2  # by both plans, of the candidate of the first 12 trials


def test_another_look_at_the_test_days_is_remembered_and_told(searched, played, atmr_home):
    study, order, _ = searched
    assert confirm(study, order, PLAN)["earlier"] == []
    assert confirm(study, order, PLAN)["earlier"] == []  # the same, played again
    found = confirm(study, order, replace(PLAN, test_days=8))
    assert [look["plan"]["test_days"][2] for look in found["earlier"]] == [12]
    write_report(study, atmr_home / "told", found)
    text = (atmr_home / "told" / "report.md").read_text(encoding="utf-8")
    assert "1 autre confirmation de cette étude" in text


def test_no_gain_on_test_days_leaves_the_default(searched, played, atmr_home):
    study, order, best = searched
    played.bonus = 5.0 - best  # what it seemed to be worth was luck
    found = confirm(study, order, PLAN)
    assert not found["test"]["claimed"] and found["winner"] == "default"
    assert winner_of(atmr_home) == {"height": 5.0, "kind": "a"}
    candidate = json.loads((atmr_home / "results" / "toy" / "candidate.json").read_text())
    assert candidate["height"] == best


def test_a_difference_within_its_interval_is_no_gain(searched, played):
    study, order, best = searched
    played.bonus = 5.0 - best + 0.004
    found = confirm(study, order, PLAN)
    difference = found["test"]["kpis"]["reward"]["difference"]
    assert difference["mean"] > 0 > difference["ci95"][0]
    assert not found["test"]["claimed"]


def test_a_gain_that_patients_pay_for_is_said_to_be_one(searched, played):
    study, order, _ = searched
    played.waits = 3.0
    found = confirm(study, order, PLAN)
    assert found["test"]["claimed"] and found["test"]["worse"] == ["wait_p95_min"]


def times_trained(home):
    models = (home / "results" / "toy" / "confirm").glob("*/checkpoints/best/toy.json")
    return sorted(json.loads(path.read_text())["times"] for path in models)


def test_what_was_trained_is_not_trained_again_unless_world_or_code_changed(
    searched, played, atmr_home, monkeypatch
):
    study, order, _ = searched
    confirm(study, order, PLAN)
    confirm(study, order, PLAN)
    assert times_trained(atmr_home) == [1] * 12
    other = replace(order, scenario=load_scenario("geneva_small").resized(num_drivers=5))
    confirm(study, other, PLAN)
    assert times_trained(atmr_home) == [1] * 24, "another world has folders of its own"
    monkeypatch.setattr(trainings, "code_sha256", lambda: "a" * 64)
    confirm(study, order, PLAN)
    assert times_trained(atmr_home) == [1] * 36, "and so has other code"


def test_a_candidate_that_cannot_be_trained_is_left_out_with_its_reason(storage, tmp_path, played):
    order = toy(tmp_path, trials=10, pruning=False, sampler="random", trouble="cannot train b")
    study = open_study(order.setup(), storage, resume=False)
    work(order)
    assert {t.params["kind"] for t in best_trials(study, 9)} == {"a", "b"}
    found = confirm(study, order, replace(PLAN, top=9))
    failed = [c for c in found["candidates"] if c["failed"]]
    assert failed and all(c["values"]["kind"] == "b" and "nan" in c["failed"] for c in failed)
    assert next(c for c in found["candidates"] if c["name"] == found["candidate"])["failed"] is None


def test_a_default_that_cannot_be_trained_ends_it(searched, played, monkeypatch):
    study, order, _ = searched

    def broken(job):
        return "the loss is nan" if job.candidate == "default" else ""

    monkeypatch.setattr(trainings, "train", broken)
    with pytest.raises(TrainingError, match="the default cannot be trained"):
        confirm(study, order, PLAN)


@pytest.mark.parametrize(
    ("plan", "words"),
    [({"test_days": 1}, "--test-days 1"), ({"choice_days": 1}, "--choice-days 1")],
)
def test_days_too_few_are_refused_before_anything_is_trained(
    searched, played, atmr_home, plan, words
):
    study, order, _ = searched
    with pytest.raises(UsageError, match=words):
        confirm(study, order, replace(PLAN, **plan))
    assert not (atmr_home / "results" / "toy" / "confirm").exists()
