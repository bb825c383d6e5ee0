"""A study: begins with the defaults, ends never below them, and knows what it is of."""

from dataclasses import replace

import optuna
import pytest

from services.rl.errors import TrainingError, UsageError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.tuning import study as room
from services.rl.training.tuning.report import study_document
from services.rl.training.tuning.search_space import Parameter, SearchSpace
from services.rl.training.tuning.storage import STORAGE_VARIABLE, close, open_storage
from services.rl.training.tuning.study import (
    best_trials,
    default_trial,
    open_study,
    standing,
)
from services.rl.training.tuning.worker import work

from .toy_studies import DEFAULTS, Hill, toy


def begun(order, storage, **how):
    return open_study(order.setup(), storage, resume=False, **how)


def test_the_defaults_come_first_are_never_pruned_and_stay_the_least(storage, tmp_path):
    order = toy(tmp_path, trials=12)
    study = begun(order, storage)
    work(order)
    trials = study.get_trials()
    assert trials[0].params == DEFAULTS and trials[0].state.name == "COMPLETE"
    assert study.best_value >= trials[0].value == 5.0
    assert [t.number for t in trials] == list(range(12))
    assert standing(study).finished == 12
    assert all(t.params != DEFAULTS for t in best_trials(study, 3))


def test_pruning_saves_more_than_half_of_the_steps(storage, tmp_path):
    order = toy(tmp_path, trials=16)
    study = begun(order, storage)
    work(order)
    spent = sum(t.user_attrs["steps"] for t in study.get_trials())
    assert spent < 0.5 * 16 * 8
    assert standing(study).pruned > 8


def test_a_trial_that_falls_behind_after_the_last_halving_is_stopped_too(tmp_path):
    pruner = room._pruner(toy(tmp_path).setup())
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for height in (5.0, 6.0, 7.0):  # played to the end, each better than all before
        trial = study.ask()
        for rung in range(1, 9):
            trial.report(height * rung / 8, rung)
            assert not trial.should_prune()
        study.tell(trial, height)
    late = study.ask()
    for rung, score in enumerate([1.0, 2.0, 3.0, 4.0, 4.0], start=1):
        late.report(score, rung)
        assert not late.should_prune()  # at rung 5 the median of the others is 6 * 5 / 8 = 3.75
    late.report(4.0, 6)
    assert late.should_prune()  # 6 * 6 / 8 = 4.5


def test_what_pruning_saves_is_told_against_each_trials_own_steps(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(Hill, "steps", lambda _, values: 8 if values["height"] == 5.0 else 16)
    study = begun(toy(tmp_path, trials=12), storage)
    work(toy(tmp_path, trials=12))
    whole = 8 + 11 * 16
    spent = sum(t.user_attrs["steps"] for t in study.get_trials())
    document = study_document(study, None)
    assert document["steps"]["saved_pct"] == pytest.approx(100 * (1 - spent / whole))


def test_without_pruning_every_trial_is_played_to_the_end(storage, tmp_path):
    order = toy(tmp_path, trials=4, pruning=False, sampler="random")
    study = begun(order, storage)
    work(order)
    assert {t.user_attrs["steps"] for t in study.get_trials()} == {8}
    assert standing(study).complete == 4


def test_a_diverging_trial_is_failed_with_its_reason_and_the_study_goes_on(storage, tmp_path):
    order = toy(tmp_path, trials=8, trouble="nan")
    study = begun(order, storage)
    work(order)
    now = standing(study)
    assert now.finished == 8 and now.failed > 0 and now.complete > 0
    failed = [t for t in study.get_trials() if t.state.name == "FAIL"]
    assert all("the score on validation days is nan" in t.user_attrs["reason"] for t in failed)
    assert study.best_value <= 6


def test_a_study_in_which_everything_fails_ends_with_the_reason(storage, tmp_path):
    order = toy(tmp_path, trials=50, trouble="refuses")
    study = begun(order, storage)
    with pytest.raises(TrainingError, match=r"5 trials failed and none.*loss is nan after 12"):
        work(order)
    assert standing(study).failed == 5


def test_a_study_goes_on_to_as_many_trials_as_asked(storage, tmp_path):
    order = toy(tmp_path, trials=2)
    begun(order, storage)
    work(order)
    more = replace(order, trials=4)
    study = open_study(more.setup(), storage, resume=True)
    work(more)
    assert standing(study).finished == 4
    work(more)  # there is nothing left to do
    assert standing(study).finished == 4


def test_a_study_of_the_name_is_not_overwritten(storage, tmp_path):
    order = toy(tmp_path, trials=2)
    begun(order, storage)
    work(order)
    with pytest.raises(UsageError, match="has 2 trials already; go on with --resume"):
        begun(order, storage)


def test_there_is_nothing_to_resume_under_another_name(storage, tmp_path):
    begun(toy(tmp_path), storage)
    with pytest.raises(UsageError, match="none of this name here; there are toy"):
        open_study(toy(tmp_path, name="other").setup(), storage, resume=True)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("space", SearchSpace((Parameter("height", 0.0, 9.0),)), "search space"),
        ("scenario", load_scenario("geneva"), "scenario"),
        ("sampler", "random", "sampler"),
        ("pruning", False, "pruning"),
    ],
)
def test_a_study_of_something_else_is_refused_and_both_are_shown(
    storage, tmp_path, field, value, words
):
    order = toy(tmp_path)
    begun(order, storage)
    other = replace(order, **{field: value})
    marks = order.setup().marks(), other.setup().marks()
    then, now = next((a, marks[1][n]) for n, a in marks[0].items() if a != marks[1][n])
    with pytest.raises(UsageError, match=f"another {words}") as caught:
        open_study(other.setup(), storage, resume=True)
    for mark in (then, now):
        assert str(mark)[:12] in str(caught.value)


def test_a_study_of_another_pruner_is_refused(storage, tmp_path, monkeypatch):
    order = toy(tmp_path)
    begun(order, storage)
    monkeypatch.setattr(room, "PRUNER", "another")
    with pytest.raises(UsageError, match="of another pruner: halving 1 2 4, median from 4 there"):
        open_study(order.setup(), storage, resume=True)


def test_what_is_refused_is_not_changed_and_an_older_pruner_is_named(
    storage, tmp_path, monkeypatch
):
    order = toy(tmp_path)
    study = begun(order, storage)
    study.set_user_attr("pruner", None)
    study.set_user_attr("code_hash", "0" * 64)
    with pytest.raises(UsageError, match=r"halving 1 2 4, of an older version.*another study"):
        open_study(order.setup(), storage, resume=True, other_code=True)
    assert study.user_attrs["code_hash"] == "0" * 64 and "earlier_code" not in study.user_attrs


def test_trials_of_an_older_version_save_nothing_that_was_not_saved():
    study = optuna.create_study(direction="maximize")
    for steps, noted in ((100, {}), (100, {}), (200, {room.WHOLE: 200}), (200, {room.WHOLE: 200})):
        attrs = {room.STEPS: steps, **noted}
        study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs=attrs))
    assert study_document(study, None)["steps"]["saved_pct"] == 0.0


def test_other_code_is_refused_unless_it_is_said_to_be_right(storage, tmp_path, monkeypatch):
    order = toy(tmp_path)
    first = room.code_sha256()
    begun(order, storage)
    monkeypatch.setattr(room, "code_sha256", lambda: "f" * 64)
    with pytest.raises(UsageError, match=f"{first[:12]} there, ffffffffffff now"):
        open_study(order.setup(), storage, resume=True)
    study = open_study(order.setup(), storage, resume=True, other_code=True)
    assert study.user_attrs["code_hash"] == "f" * 64
    assert study.user_attrs["earlier_code"] == [first]


def test_a_study_killed_before_it_had_a_trial_is_begun_again(storage, tmp_path):
    import optuna

    order = toy(tmp_path, trials=1)
    optuna.create_study(storage=storage, study_name="toy", direction="maximize")
    study = open_study(order.setup(), storage, resume=True)
    work(order)
    assert study.get_trials()[0].params == DEFAULTS
    assert study.user_attrs["scenario"] == "geneva_small"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", "127.0.0.1"),
        ("sqlite:////proc/none/studies.db", "cannot be"),
        ("mysql://me:secret@db/x", "only sqlite and postgresql"),
        ("somewhere", "no database URL"),
        ("sqlite://", "need a file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_sentence_without_the_password(atmr_home, url, words):
    with pytest.raises(UsageError, match=words) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_the_environment_names_the_storage_and_an_argument_goes_first(
    atmr_home, tmp_path, monkeypatch
):
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'shared.db'}")
    close(open_storage())
    close(open_storage(f"sqlite:///{tmp_path / 'own.db'}"))
    assert (tmp_path / "shared.db").is_file() and (tmp_path / "own.db").is_file()


def test_interrupted_while_drawing_the_default_stays_the_default(storage, tmp_path, monkeypatch):
    order = toy(tmp_path, trials=2)
    study = begun(order, storage)
    draw = SearchSpace.draw

    def interrupted(_space, trial):
        trial.suggest_categorical("kind", ["a", "b"])
        raise KeyboardInterrupt

    monkeypatch.setattr(SearchSpace, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work(order)
    monkeypatch.setattr(SearchSpace, "draw", draw)
    work(order)
    default = default_trial(study)
    assert default is not None and default.params == DEFAULTS


def test_a_study_of_the_same_name_elsewhere_is_another(storage, tmp_path):
    one = begun(toy(tmp_path), storage)
    order = toy(tmp_path, storage=f"sqlite:///{tmp_path / 'other.db'}")
    elsewhere = order.connect()
    other = begun(order, elsewhere)
    assert one.user_attrs["id"] != other.user_attrs["id"]
    close(elsewhere)


def test_a_password_among_the_options_of_an_address_is_not_shown():
    with pytest.raises(UsageError) as caught:
        open_storage("postgresql://127.0.0.1:1/x?user=me&password=secret")
    assert "secret" not in str(caught.value)
