"""The comparing figure: axes that show differences, never what a KPI cannot be."""

import numpy as np
import pytest

from services.rl.evaluation.evaluation import Evaluation, day_book
from services.rl.evaluation.kpi_figure import BLUE, MEANS, RED, axis_range, kpi_figure
from services.rl.evaluation.runner import DayResults
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Split, load_scenario

BOOK = day_book(load_scenario("geneva_small"), None, Split.VALIDATION, 5)


def results(policy, level, model_sha=None):
    """Rewards around 600, percentages around 99, a few unserved: ``level`` moves them a little."""
    day = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    kpis = np.ones((5, len(KPIS)))
    kpis[:, KPIS.index("reward")] = 600 + 10 * level + day
    kpis[:, KPIS.index("completion_pct")] = np.clip(99 + level + day, 0, 100)
    kpis[:, KPIS.index("on_time_pct")] = 80 + level + day
    kpis[:, KPIS.index("unserved")] = np.clip(0.5 + day, 0, None)
    return DayResults(policy, kpis, np.ones(1), model_sha=model_sha)


@pytest.fixture
def panels():
    """Axes by title."""
    policies = [
        results("nearest", 0),
        results("matching", 0.5),
        results("dqn", 1, "abc"),
        results("random", -60),
    ]
    figure = kpi_figure(Evaluation(BOOK, Split.VALIDATION, policies, "matching"))
    return {axis.get_title(loc="left"): axis for axis in figure.axes}


def test_axes_stay_within_what_a_kpi_can_be(panels):
    for _, title, _, lowest, highest in MEANS:
        low, high = panels[title].get_xlim()
        assert lowest <= low < high <= highest
        for line in panels[title].lines:
            assert (np.asarray(line.get_xdata()) >= lowest).all()
            assert (np.asarray(line.get_xdata()) <= highest).all()


def test_a_far_away_policy_does_not_hide_the_differences_of_the_others(panels):
    low, high = panels["Reward per day"].get_xlim()
    assert low > 500
    assert high - low < 50
    assert [text.get_text() for text in panels["Reward per day"].texts] == ["0"]


def test_differences_to_the_reference_come_first_with_intervals(panels):
    titles = list(panels)
    assert titles[0] == "Reward per day: minus matching"
    assert "On time, points: minus matching" in titles
    dots = [line for line in panels[titles[0]].lines if line.get_marker() == "o"]
    assert [round(float(dot.get_xdata()[0]), 6) for dot in dots] == [-5.0, 0.0, 5.0]


def test_every_panel_says_which_direction_is_better(panels):
    assert {title: axis.get_xlabel() for title, axis in panels.items()} == {
        "Reward per day: minus matching": "higher is better →",
        "On time, points: minus matching": "higher is better →",
        **{title: direction for _, title, direction, _, _ in MEANS},
    }


def test_learned_policies_and_the_reference_have_their_own_colours(panels):
    dots = [line for line in panels["Reward per day"].lines if line.get_marker() == "o"]
    assert [dot.get_color() for dot in dots] == ["#555555", BLUE, RED]


def test_one_policy_or_one_day_can_be_drawn():
    alone = Evaluation(BOOK, Split.VALIDATION, [results("nearest", 0)], "nearest")
    assert len(kpi_figure(alone).axes) == len(MEANS)
    one = DayResults("nearest", results("nearest", 0).kpis[:1], np.ones(1))
    assert kpi_figure(Evaluation(BOOK, Split.VALIDATION, [one], "nearest")).axes


def test_the_range_covers_whole_intervals_and_what_must_be_seen():
    low, high = axis_range([5.0, 6.0], [(4.0, 6.0), (5.0, 7.0)], (9.0,), 0.0, np.inf)
    assert low < 4.0
    assert high > 9.0
    assert axis_range([np.nan], [(np.nan, np.nan)], (), 0.0, 100.0) == (0.0, 1.0)
