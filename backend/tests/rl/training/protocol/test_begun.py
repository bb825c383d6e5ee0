"""What a run began with: not written over unasked, gone on with only as it began."""

import dataclasses
import json

import pytest

from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.protocol.begun import (
    BEGUN_FILE,
    data_begun_on,
    refuse_again,
    refuse_other,
    with_finished,
    write_begun,
)
from services.rl.training.protocol.fit import FitOptions

START = FitOptions(batch_size=32, epochs=1)
DAYS = 3


def seeded(order, seed):
    return dataclasses.replace(order, config=order.config.changed(seed=seed))


def reported(folder, **report):
    (folder / "protocol.json").write_text(json.dumps(report))


def test_a_folder_with_nothing_finished_is_begun_without_a_question(order, tmp_path):
    refuse_again(tmp_path)
    write_begun(tmp_path, order, START, DAYS)
    refuse_again(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [BEGUN_FILE]


def test_finished_configurations_are_not_run_again_unasked(tmp_path):
    for name in ("default", "batch_64"):
        (tmp_path / "configurations" / name).mkdir(parents=True)
        (tmp_path / "configurations" / name / "result.json").write_text("{}")
    with pytest.raises(UsageError, match=r"--name .*: it has 2 finished .*--resume, or .* --name"):
        refuse_again(tmp_path)


def test_a_run_goes_on_as_it_began(order, tmp_path):
    refuse_other(tmp_path, order, START, DAYS)  # not begun
    write_begun(tmp_path, order, START, DAYS)
    refuse_other(tmp_path, order, START, DAYS)


@pytest.mark.parametrize(
    ("order_of", "start", "days", "said"),
    [
        (lambda o: seeded(o, 5), dataclasses.replace(START, seed=5), 3, "--seed 0 there, 5 now"),
        (lambda o: dataclasses.replace(o, days=9), START, 3, "--days 2 there, 9 now"),
        (lambda o: dataclasses.replace(o, val_days=9), START, 3, "--val-days 1 there, 9 now"),
        (lambda o: dataclasses.replace(o, teacher="planner"), START, 3,
         "--teacher matching_linear there, planner now"),
        (lambda o: o, START, 4, "--judge-days 3 there, 4 now"),
        (lambda o: o, dataclasses.replace(START, batch_size=64), 3, "--batch-size 32 there, 64"),
        (lambda o: o, dataclasses.replace(START, learning_rate=0.01), 3, "--lr 0.001 there, 0.01"),
        (lambda o: o, dataclasses.replace(START, w_value=0.5), 3, "--w-value 1.0 there, 0.5 now"),
    ],
)  # fmt: skip
def test_another_recipe_is_refused_with_both_values(order, tmp_path, order_of, start, days, said):
    write_begun(tmp_path, order, START, DAYS)
    with pytest.raises(UsageError) as refused:
        refuse_other(tmp_path, order_of(order), start, days)
    assert said in str(refused.value) and str(refused.value).count("there,") == 1


def test_another_scenario_is_named_and_its_hash_only_where_names_agree(order, tmp_path):
    write_begun(tmp_path, order, START, DAYS)
    other = dataclasses.replace(order, scenario=load_scenario("geneva"))
    with pytest.raises(UsageError) as refused:
        refuse_other(tmp_path, other, START, DAYS)
    assert "--scenario geneva_small there, geneva now" in str(refused.value)
    assert order.scenario.sha256[:12] not in str(refused.value)
    found = json.loads((tmp_path / BEGUN_FILE).read_text())
    (tmp_path / BEGUN_FILE).write_text(json.dumps({**found, "scenario_hash": "f" * 64}))
    with pytest.raises(UsageError) as refused:
        refuse_other(tmp_path, order, START, DAYS)
    short = order.scenario.sha256[:12]
    assert f"scenario_hash {'f' * 12} there, {short} now" in str(refused.value)


def test_a_run_of_an_older_version_is_compared_with_its_report(order, tmp_path):
    identity, start = order.identity(), START.document()
    reported(tmp_path, identity=identity, plan={"start": start}, judging_days=["a", "b", DAYS],
             hashes={"data": "abc"})  # fmt: skip
    refuse_other(tmp_path, order, START, DAYS)
    with pytest.raises(UsageError, match="--seed 0 there, 5 now"):
        refuse_other(tmp_path, seeded(order, 5), dataclasses.replace(START, seed=5), DAYS)
    assert data_begun_on(tmp_path) == "abc"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_report_that_cannot_be_read_is_refused_in_a_sentence(order, tmp_path, text):
    (tmp_path / "protocol.json").write_text(text)
    with pytest.raises(UsageError, match=r"--resume: .* cannot be read"):
        refuse_other(tmp_path, order, START, DAYS)


@pytest.mark.parametrize(
    ("chosen", "verdict", "asked", "run"),
    [
        ("", False, "A", "A"),
        ("AB", False, "C", "ABC"),  # what A and B chose is confirmed
        ("AB", True, "C", "ABC"),  # and a whole report stays whole
        ("AB", True, "A", "ABC"),
        ("A", False, "ABC", "ABC"),
        ("A", False, "C", "AC"),
        ("", True, "AB", "AB"),  # C would have to confirm another winner: it was not asked for
        ("B", False, "A", "A"),
    ],
)
def test_phases_that_are_finished_stay(tmp_path, chosen, verdict, asked, run):
    reported(tmp_path, chosen=dict.fromkeys(chosen, "default"), findings=[{}] * verdict)
    assert with_finished(tmp_path, tuple(asked)) == tuple(run)
