"""Two studies compared: at the end, at equal effort, day by day; never of different things."""

from datetime import datetime, timedelta

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from services.rl.errors import UsageError
from services.rl.evaluation.paired import paired_difference
from services.rl.training.tuning.comparison import (
    COMPARISON_FILE,
    comparison,
    comparison_markdown,
    curve,
    write_comparison,
)
from services.rl.training.tuning.study import PER_DAY, STEPS

START = datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna keeps times
MARKS = {
    "policy": "toy",
    "scenario_hash": "s",
    "space_hash": "x",
    "budget_hash": "b",
    "code_hash": "c",
    "sampler": "tpe",
    "pruning": True,
}
DAYS = np.array([-3.0, 1.0, 0.5, 1.5])


def study(storage, name, trials, **marks):
    """Trials given as (score or None if pruned, steps); each ends a minute after the last."""
    made = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    run = {"command": f"auto_tune.py --study {name}", "commit": "abc"}
    for key, value in {**MARKS, "runs": [run], "sampler_seed": 3, **marks}.items():
        made.set_user_attr(key, value)
    for number, (score, steps) in enumerate(trials):
        trial = create_trial(
            state=TrialState.PRUNED if score is None else TrialState.COMPLETE,
            value=score,
            params={"height": 1.0},
            distributions={"height": FloatDistribution(0.0, 10.0)},
            user_attrs={STEPS: steps}
            | ({} if score is None else {PER_DAY: (score + DAYS * (number + 1)).tolist()}),
            intermediate_values={1: 0.0},
        )
        trial.datetime_start = START + timedelta(minutes=number)
        trial.datetime_complete = START + timedelta(minutes=number + 1)
        made.add_trial(trial)
    return made


@pytest.fixture
def pair(storage):
    a = study(storage, "pruned", [(5.0, 8), (None, 1), (None, 2), (7.0, 8)])
    b = study(storage, "whole", [(5.0, 8), (6.0, 8), (9.0, 8)], pruning=False)
    return a, b


def test_both_bests_meet_day_by_day_at_the_end(pair):
    found = comparison(*pair)["at_the_end"]
    assert (found["a"]["trial"], found["b"]["trial"]) == (3, 2)
    expected = paired_difference(7.0 + 4 * DAYS, 9.0 + 3 * DAYS)
    assert found["difference"]["mean"] == pytest.approx(expected.mean)
    assert found["difference"]["ci95"] == pytest.approx([expected.low, expected.high])


def test_at_equal_effort_what_the_costlier_study_found_later_does_not_count(pair):
    found = comparison(*pair)["at_equal_steps"]
    assert found["steps"] == 19  # of the cheaper one; the other's third trial ended at 24
    assert (found["a"]["score"], found["b"]["score"]) == (7.0, 6.0)


def test_the_share_of_steps_saved_is_that_of_the_first_against_the_second(pair):
    document = comparison(*pair)
    assert document["steps_saved_pct"] == pytest.approx(100 * (1 - 19 / 24))
    assert document["differs"] == []
    assert curve(pair[0]) == [(8, 5.0), (19, 7.0)]  # pruned trials cost, and find nothing


@pytest.mark.parametrize("mark", ["policy", "scenario_hash", "budget_hash"])
def test_studies_of_different_things_are_refused_and_the_difference_named(storage, mark):
    a = study(storage, "a", [(5.0, 8)])
    b = study(storage, "b", [(5.0, 8)], **{mark: "another"})
    with pytest.raises(UsageError, match=f"a and b differ in {mark}"):
        comparison(a, b)


@pytest.mark.parametrize("mark", ["space_hash", "code_hash"])
def test_another_space_or_code_is_compared_and_said_so(storage, mark):
    a = study(storage, "a", [(5.0, 8)])
    b = study(storage, "b", [(5.0, 8)], **{mark: "another"})
    document = comparison(a, b)
    assert document["differs"] == [mark]
    assert f"les études diffèrent : {mark}" in comparison_markdown(document)


def test_a_study_without_a_whole_trial_is_nothing_to_compare(storage):
    a = study(storage, "a", [(None, 1)])
    b = study(storage, "b", [(5.0, 8)])
    document = comparison(a, b)
    assert document["at_the_end"]["difference"] is None
    assert "À la fin : rien à comparer." in comparison_markdown(document)


def test_the_costlier_study_is_said_to_be_so(pair):
    text = comparison_markdown(comparison(*reversed(pair)))
    assert "La première prend 26 % d'étapes de plus." in text


def test_the_report_holds_the_figures(pair, tmp_path):
    write_comparison(*pair, tmp_path)
    text = (tmp_path / COMPARISON_FILE).read_text(encoding="utf-8")
    assert "La première prend 21 % d'étapes de moins." in text
    assert "À étapes égales : 7,00 contre 6,00" in text
    assert "- whole : `auto_tune.py --study whole`, commit `abc`, graine 3" in text
    assert (tmp_path / "comparison.png").exists() and (tmp_path / "comparison.json").exists()
