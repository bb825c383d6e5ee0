"""Verdicts of the quality table, on numbers whose verdicts are known."""

import pytest

from services.rl.evaluation.quality_targets import Goal, Measured, Target, Verdict, targets

MUST = Goal("+5 %, intervalle > 0", at_least=5.0, certain=True)
AIM = Goal("+8 %", at_least=8.0)


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [
        (9.0, 1.0, Verdict.AIM),
        (8.0, 1.0, Verdict.AIM),
        (7.9, 1.0, Verdict.MUST),
        (5.0, 4.9, Verdict.MUST),
        (4.9, 0.1, Verdict.MISSED),
        (9.0, 9.5, Verdict.MISSED),  # enough, but perhaps nothing at all
        (9.0, None, Verdict.MISSED),  # one day has no interval
        (-9.0, 1.0, Verdict.MISSED),
    ],
)
def test_a_gain_must_be_large_enough_and_certain(value, half, verdict):
    assert Target("x", Measured(value, half), MUST, AIM).verdict() is verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(20, Verdict.AIM), (25, Verdict.AIM), (26, Verdict.MUST), (101, Verdict.MISSED)],
)
def test_milliseconds_must_stay_below(value, verdict):
    must, aim = Goal("≤ 100", at_most=100), Goal("≤ 25", at_most=25)
    assert Target("x", Measured(value, unit="ms"), must, aim).verdict() is verdict


def test_nothing_measured_has_no_verdict():
    assert Target("x", None, MUST, AIM).verdict() is Verdict.UNKNOWN


def test_too_slow_is_missed_whatever_the_gain():
    assert Target("x", Measured(20, 1, limit_kept=False), MUST, AIM).verdict() is Verdict.MISSED


def test_an_aim_about_another_number_needs_that_number():
    gain = Measured(6.0, 1.0)
    near = Goal("à 1 %", at_least=-1.0)
    asked = {"must": MUST, "aim": near, "elsewhere": True}
    assert Target("x", gain, **asked).verdict() is Verdict.MUST
    assert Target("x", gain, aimed=Measured(-3.0), **asked).verdict() is Verdict.MUST
    assert Target("x", gain, aimed=Measured(-0.5), **asked).verdict() is Verdict.AIM
    assert (
        Target("x", Measured(1.0, 0.1), aimed=Measured(-0.5), **asked).verdict() is Verdict.MISSED
    )


def pair(mean, half, seeds=5, **more):
    value = {"mean": mean, "half": half}
    worst = {"seed": 0, "diff": value, "relative_pct": {"mean": mean - 1, "half": half}}
    return {
        "days": 20,
        "seeds": seeds,
        "diff": value,
        "relative_pct": value,
        "worst": worst,
        **more,
    }


def found(tables, words):
    (row,) = [t for t in targets(tables) if t.name.endswith(words)]
    return row


def test_empty_tables_measure_nothing():
    rows = targets({})
    assert len(rows) > 20
    assert {row.verdict() for row in rows} == {Verdict.UNKNOWN}


def test_the_planner_is_held_to_its_time():
    def row(p50_ms):
        kpis = {
            "pairs": {"planner_rolling": pair(6.0, 2.0, a="planner@6000", b="rolling@200")},
            "rows": [{"policy": "planner@6000", "latency": {"p50_ms": p50_ms}}],
        }
        words = "planner (≤ 15 ms) − rolling à 0,2 s, geneva_overload"
        return found({"kpis": {"geneva_overload": kpis}}, words)

    assert row(14.9).verdict() is Verdict.MUST
    assert row(15.1).verdict() is Verdict.MISSED
    assert row(1.0).measured.worst == 5.0


def danger(percent):
    row = {"policy": "planner@6000", "days": 20}
    for name in ("unserved_urgent", "late_all", "late_urgent"):
        row[name] = {"relative_pct": {"mean": percent, "half": 1.0}}
    return found({"safety": {"geneva": [row]}}, "priorités 4-5 non servies, geneva").verdict()


def test_nobody_urgent_may_be_failed_more_often():
    assert [danger(p) for p in (-31, -5, 0, 0.1)] == [
        Verdict.AIM, Verdict.MUST, Verdict.MUST, Verdict.MISSED,
    ]  # fmt: skip


def disturbed(*gains):
    rows = [
        {"base": "geneva_overload", "title": str(i), "asked": ["rolling@200"],
         "planner_minus": {} if g is None else {"rolling@200": pair(*g)}}
        for i, g in enumerate(gains)
    ]  # fmt: skip
    return found({"robust": rows}, "rolling sous perturbations, geneva_overload").verdict()


def test_one_uncertain_disturbance_is_enough_to_miss():
    assert disturbed((3, 1), (5, 2)) is Verdict.MUST
    assert disturbed((3, 1), (9, 10)) is Verdict.MISSED
    assert disturbed((3, 1), None) is Verdict.UNKNOWN  # not all of them were measured


def test_the_paired_differences_interval_decides_where_it_is_known():
    assert Target("x", Measured(9.0, 1.0, sure=False), MUST).verdict() is Verdict.MISSED
    assert Target("x", Measured(9.0, 9.5, sure=True), MUST).verdict() is Verdict.MUST
    assert Target("x", Measured(1.0, 0.1, sure=True), MUST).verdict() is Verdict.MISSED


# --- the table of the issue ----------------------------------------------------------------------

BOUNDS = [
    # words of the row, (bound, interval asked for) that must hold, the same aimed at
    (("≤ 15 ms", "rolling à 0,2 s", "geneva_overload"), (5.0, True), (8.0, False)),
    (("≤ 15 ms", "rolling à 0,2 s", "geneva"), (0.0, False), (4.0, False)),
    (("planner", "rolling_search", "geneva_overload"), (3.5, True), (6.0, False)),
    (("planner", "rolling_search", "geneva"), (0.7, True), (2.0, False)),
    (("écart comblé", "planner", "geneva_overload"), (84.0, False), (90.0, False)),
    (("écart comblé", "planner", "geneva"), (82.0, False), (90.0, False)),
    (("réseau", "≤ 1 ms", "matching_linear", "geneva_overload"), (5.0, True), (-1.0, False)),
    (("réseau", "≤ 1 ms", "matching_linear", "geneva"), (2.0, True), (-1.0, False)),
    (("réseau", "≤ 1 ms", "rolling à 0,2 s", "geneva_overload"), (0.0, False), (0.0, True)),
    (("manhattan_11", "≤ 1 ms", "25 jours", "matching_profit"), (7.0, True), (82.5, False)),
    (("manhattan_38", "≤ 1 ms", "25 jours", "matching_profit"), (6.0, True), (86.5, False)),
    (("rolling", "perturbations", "geneva_overload"), (0.0, True), None),
    (("matching", "perturbations", "geneva_overload"), (0.0, True), None),
    (("rolling", "perturbations", "geneva"), (0.0, False), None),
    (("matching", "perturbations", "geneva"), (0.0, False), None),
]
CEILINGS = [
    *(
        ((danger, world), 0.0, -30.0)
        for danger in (
            "priorités 4-5 non servies",
            "15 min après l'heure promise",
            "les mêmes, priorités 4-5",
        )
        for world in ("geneva_overload", "geneva")
    ),
    (("200 chauffeurs", "500 réservations"), 100.0, 25.0),
    (("temps d'entraînement", "planner"), 15.0, 5.0),
    (("temps d'entraînement", "dqn_matching"), 15.0, 5.0),
]


def row_of(words):
    """The one row with these words; ``geneva`` is a whole word."""

    def has(name, word):
        return word in name.replace(",", " ").split() or (word != "geneva" and word in name)

    rows = [row for row in targets({}) if all(has(row.name, word) for word in words)]
    assert len(rows) == 1, [row.name for row in rows]
    return rows[0]


@pytest.mark.parametrize(("words", "must", "aim"), BOUNDS)
def test_gains_are_held_to_what_the_issue_asks(words, must, aim):
    row = row_of(words)
    assert (row.must.at_least, row.must.certain, row.must.at_most) == (*must, None)
    if aim is None:
        assert row.aim is None
    else:
        assert (row.aim.at_least, row.aim.certain, row.aim.at_most) == (*aim, None)


@pytest.mark.parametrize(("words", "must", "aim"), CEILINGS)
def test_dangers_and_times_are_held_to_what_the_issue_asks(words, must, aim):
    row = row_of(words)
    assert (row.must.at_most, row.aim.at_most) == (must, aim)
    assert row.must.at_least is None is row.aim.at_least
    assert not row.must.certain and not row.aim.certain


def test_the_table_has_no_other_rows():
    named = {row_of(words).name for words, *_ in (*BOUNDS, *CEILINGS)}
    assert named == {row.name for row in targets({})}


def trained(*minutes):
    return {"training": [{"kind": "planner", "minutes": m} for m in minutes]}


def test_the_longest_training_counts():
    words = "temps d'entraînement, planner"
    assert found(trained(4.0, 15.1, 5.0), words).verdict() is Verdict.MISSED
    assert found(trained(4.0, 15.0, 5.0), words).verdict() is Verdict.MUST
    assert found(trained(4.0, 4.9), words).verdict() is Verdict.AIM
    assert found(trained(4.0, 15.1, 5.0), words).measured.value == 15.1
    assert found(trained(4.0), "temps d'entraînement, dqn_matching").measured is None


def test_the_city_is_the_planners_whoever_stands_first():
    def timed(policy, p50_ms):
        return {"policy": policy, "days": 2, "full_p50_ms": p50_ms, "full_p99_ms": 2 * p50_ms}

    rows = [timed("matching", 0.5), timed("planner@6000", 120.0), timed("rolling_search", 20.0)]
    row = found({"city": rows}, "par époque, à chaud")
    assert row.measured.value == 120.0 and row.verdict() is Verdict.MISSED
    assert "planner@6000" in row.measured.remark


@pytest.mark.parametrize("world", ["manhattan_11", "manhattan_38"])
def test_manhattan_is_held_to_a_millisecond_and_to_the_bound(world):
    def row(p50_ms, share=80.0):
        values = {
            "policy": "matching_values",
            "days": 25,
            "minus_profit": pair(9.0, 1.0),
            "share_of_bound_pct": {"mean": share, "half": 1.0},
            "latency": {"p50_ms": p50_ms},
        }
        return found({"manhattan": {world: [values]}}, f"{world}, 25 jours de validation")

    assert row(1.0).verdict() is Verdict.MUST
    assert row(1.01).verdict() is Verdict.MISSED
    assert row(0.1, share=86.5).verdict() is Verdict.AIM
    assert row(0.1, share=82.4).verdict() is Verdict.MUST
