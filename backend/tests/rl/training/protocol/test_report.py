"""The report's words, numbers and figure."""

import dataclasses

import pytest
from matplotlib.colors import to_hex

from services.rl.training.protocol.fit import FitOptions
from services.rl.training.protocol.report import (
    _centre,
    _loader,
    _verdict,
    figure,
    significant,
)
from services.rl.training.protocol.rules import VERDICT, Finding
from services.rl.training.protocol.throughput import LOOP, PREPARED

START = FitOptions(batch_size=64)
BIG = dataclasses.replace(START, batch_size=256, learning_rate=2e-3)


def row(name, phase, options=START, passes=3):
    curve = {"val_total": [3.0 + 1 / (i + 1) for i in range(passes)],
             "seconds": [float(i) for i in range(passes)]}  # fmt: skip
    return {"name": name, "phase": phase, "options": options.document(), "curve": curve}


def told(verdict="NO-GO", winner="value_2", **numbers):
    found = [Finding(r, numbers.get(r.measure, 0.0)).document() for r in VERDICT]
    rows = [row("default", "A"), row("batch_256", "A", BIG),
            row("value_2", "B", dataclasses.replace(BIG, w_value=2.0))]  # fmt: skip
    return {"verdict": verdict, "winner": winner, "findings": found, "rows": rows,
            "chosen": {"A": "batch_256", "B": "value_2"}}  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "winner", "said"),
    [
        ("NO-GO", "value_2", "le défaut reste."),
        ("GO", "value_2", "poids p/v 1,00/2,00)."),
        ("NO-GO", "default", "Candidat : aucun, le défaut reste."),
    ],
)
def test_the_verdict_names_a_candidate_and_whether_the_default_stays(verdict, winner, said):
    first = _verdict(told(verdict, winner))[0]
    assert first.startswith("Candidat : ") and first.endswith(said)
    if winner != "default":
        assert first.startswith("Candidat : `value_2` (lot 256, taux 0,0020")
    assert ("le défaut reste" in first) == (verdict == "NO-GO")


def test_percentages_are_written_out_and_parts_are_told_in_percent():
    text = "\n".join(
        _verdict(told(reward=-1333.3, decisions=0.998, parity=9.4e-6, val_total=-2e-5))
    )
    assert "`reward` : -1\u202f330 % (≥ -1 attendu)" in text
    assert "`decisions` : 99,8 % des états (≥ 100 attendu)" in text
    assert "`val_total` : -0,00002 %" in text
    assert "`parity` : 9,4e-06 (≤ 0,0001 attendu)" in text


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(-0.6321, "%", "-0.632"), (0.0, "calcul", "0"), (123456.0, "%", "123,000"),
     (1334.0, "", "1,330"), (-2.0, "point", "-2"), (2.1, "%", "2.1")],
)  # fmt: skip
def test_three_digits_are_told_without_a_power_of_ten(value, unit, said):
    assert significant(value, unit) == said


def test_phase_b_says_whose_batch_its_configurations_have():
    said = "\n".join(_centre(told()))
    assert "La phase A a gardé `batch_256` (lot 256, taux 0,0020" in said
    assert "`default` (lot 64, taux 0,0010" in said
    assert not _centre({**told(), "chosen": {"A": "default"}})
    assert not _centre({**told(), "rows": told()["rows"][:2]})  # no phase B


def test_features_and_batch_sizes_are_told_apart():
    text = "\n".join(_loader({LOOP: 1.0, PREPARED: 1.6}))
    assert "contre cette boucle" in text and "**manqué**" in text
    assert "comparent à la configuration par défaut" in text


def test_every_curve_of_the_figure_can_be_told_from_the_others():
    short = [row("default", "A"), row("batch_2", "A"), row("batch_4", "A"),
             *[row(f"value_{v}", "B") for v in (0.25, 0.5, 2)]]  # fmt: skip
    long = [row(f"long_{n}_seed_{s}", "C") for n in ("default", "value_0.5") for s in (4, 5, 6)]
    drawn = figure([*short, *long])
    lines = {
        line.get_label(): (to_hex(line.get_color()), line.get_linestyle())
        for axes in drawn.axes
        for line in axes.lines
    }
    assert lines.keys() == {r["name"] for r in [*short, *long]}
    assert len({lines[r["name"]][0] for r in short}) == len(short)
    assert len({lines[r["name"]] for r in long}) == len(long)
    assert {lines[f"long_value_0.5_seed_{s}"][0] for s in (4, 5, 6)} == {lines["value_0.5"][0]}
    for axes in drawn.axes[::2]:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_the_figure_of_one_pass_shows_points():
    assert figure([row("default", "A", passes=1)]).axes[0].lines[0].get_marker() == "o"
