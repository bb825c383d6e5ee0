"""The phases: what is run, kept, recorded as failed, taken again, and never mixed."""

import dataclasses
import json

import pytest

from services.rl.errors import PolicyError, TrainingError
from services.rl.policies.model_files import MODEL_FILE
from services.rl.training.protocol import bench as room
from services.rl.training.protocol.bench import Bench, judging_book, refuse_mixed
from services.rl.training.protocol.fit import FitOptions
from services.rl.training.protocol.protocol import DEFAULT, Plan, run_protocol
from services.rl.training.protocol.report import _loader
from services.rl.training.protocol.rules import VERDICT
from services.rl.training.protocol.table import document
from services.rl.training.protocol.throughput import LOOP, PREPARED, THREADS

START = FitOptions(batch_size=32, epochs=1)


@pytest.fixture
def bench(order, data, tmp_path, monkeypatch) -> Bench:
    """Real in all but the export, which takes seconds: see the last test."""
    parity = {"states": 1, "relative": 0.0, "same_decisions": 1.0}
    monkeypatch.setattr(room, "export_parity", lambda *_: dict(parity))
    monkeypatch.setattr(room.Bench, "backends", lambda *_: [])
    return Bench(order, data, judging_book(order, None, 3), tmp_path / "run")


class Told:
    """A bench whose results are given: the rules of choosing, table-driven."""

    def __init__(self, **numbers):
        self.numbers = numbers
        self.asked = []
        self.data = type("Data", (), {"train": range(10_000)})()

    def result(self, name, options, _say):
        self.asked.append((name, options))
        seconds, total, reward = self.numbers.get(name, (1.0, 10.0, 100.0))
        if total is None:
            return {"name": name, "hashes": {}, "options": options.document(),
                    "state": "failed", "reason": "the term broke"}  # fmt: skip
        days = [float(x) for x in range(20)]
        level = {"reward": reward, "bookings_due": 100.0, "on_time_pct": 90.0}
        return {
            "name": name, "hashes": {}, "options": options.document(), "state": "done",
            "reward_scale": 0.1,
            "fit": {"epoch_cpu_seconds": seconds, "val_total": total, "features_computed": 0},
            "kpis": {k: [level.get(k, 0.0) + d for d in days] for k in room.KPIS},
            "parity": {"relative": 0.0, "same_decisions": 1.0},
        }  # fmt: skip

    def loader(self, *_):
        return {}

    def speeds(self, configurations, _say):
        return {n: 1.0 / self.numbers.get(n, (1.0,))[0] for n in configurations}

    def backends(self, *_):
        return []


def test_phase_a_scales_the_rate_and_changes_nothing_else():
    plan = Plan(FitOptions(batch_size=1024, learning_rate=1e-3), ("A",))
    told = Told()
    run_protocol(told, plan)
    assert [name for name, _ in told.asked] == [DEFAULT, "batch_2048", "batch_4096"]
    for name, options in told.asked[1:]:
        ratio = options.batch_size / 1024
        assert options.learning_rate == pytest.approx(1e-3 * ratio**0.5), name
        assert dataclasses.replace(options, batch_size=1024, learning_rate=1e-3) == plan.start


@pytest.mark.parametrize(
    ("numbers", "winner"),
    [
        ({}, DEFAULT),
        ({"batch_2048": (0.5, 10.0, 100.0)}, "batch_2048"),
        ({"batch_2048": (0.51, 9.0, 100.0)}, DEFAULT),  # not fast enough
        ({"batch_2048": (0.5, 10.0, 100.0), "batch_4096": (0.4, 10.0, 100.0)}, "batch_4096"),
        ({"batch_2048": (0.5, 10.0, 100.0), "batch_4096": (0.4, 10.0, 90.0)}, "batch_2048"),
        ({"batch_2048": (0.4, 9.0, 90.0)}, DEFAULT),  # faster, lower, but blocked by reward
        ({"batch_2048": (0.4, None, 90.0)}, DEFAULT),
    ],
)
def test_phase_a_keeps_the_fastest_that_breaks_nothing(numbers, winner):
    outcome = run_protocol(Told(**numbers), Plan(FitOptions(), ("A",)))
    assert outcome.winner == winner
    assert all(outcome.why[name] for name in outcome.results)


def test_ratios_of_a_french_report_have_decimal_commas():
    told = Told(batch_2048=(0.613, 10.0, 100.0), batch_4096=(0.43, 10.0, 100.0))
    why = run_protocol(told, Plan(FitOptions(), ("A",))).why
    assert why["batch_2048"] == "écartée : seulement 1,63 × la vitesse du défaut, il en faut 2"
    assert why["batch_4096"] == "gardée : 2,33 × la vitesse du défaut, rien de bloquant"


def test_phase_c_has_no_verdict_while_it_runs(bench):
    found = []
    plan = Plan(START, ("C",), seeds=1)
    so_far = lambda outcome: found.append(document(bench, plan, outcome)["verdict"])  # noqa: E731
    run_protocol(bench, plan, on_result=so_far)
    assert found == [None, None]


def test_phase_b_moves_the_weight_at_the_batch_that_a_chose():
    told = Told(batch_4096=(0.4, 10.0, 100.0), **{"value_0.5": (1.0, 9.0, 100.0),
                "value_2": (1.0, 8.0, 90.0)})  # fmt: skip
    outcome = run_protocol(told, Plan(FitOptions(), ("A", "B")))
    grid = [options for name, options in told.asked if name.startswith("value")]
    assert [o.w_value for o in grid] == [0.25, 0.5, 2.0]
    assert {(o.batch_size, o.w_policy) for o in grid} == {(4096, 1.0)}
    assert outcome.chosen == {"A": "batch_4096", "B": "value_0.5"}


def test_phase_c_runs_winner_and_default_long_on_the_same_seeds():
    told = Told(**{"value_0.5": (1.0, 9.0, 100.0)})
    outcome = run_protocol(told, Plan(FitOptions(seed=4, epochs=10), ("B", "C")))
    long = {name: o for name, o in told.asked if name.startswith("long")}
    assert list(long) == [
        f"long_{which}_seed_{seed}" for which in (DEFAULT, "value_0.5") for seed in (4, 5, 6)
    ]
    assert {o.epochs for o in long.values()} == {25}
    found = {f.rule.measure: f for f in outcome.verdict}
    assert list(found) == [rule.measure for rule in VERDICT]
    assert not found["serving"].holds and not outcome.go  # no backend was measured


def test_a_failed_default_ends_in_no_go():
    told = Told(default=(1.0, None, 0.0))
    outcome = run_protocol(told, Plan(FitOptions()))
    assert [name for name, _ in told.asked] == [DEFAULT]
    assert not outcome.go


def test_a_failed_long_run_is_no_go():
    outcome = run_protocol(Told(long_default_seed_1=(1.0, None, 0.0)), Plan(FitOptions(), ("C",)))
    assert not outcome.go
    assert all(f.value is None for f in outcome.verdict)


def test_a_batch_larger_than_the_set_is_refused_before_any_run():
    told = Told()
    with pytest.raises(TrainingError, match="16,384 is larger than the data set's 10,000 states"):
        run_protocol(told, Plan(FitOptions(batch_size=4096)))
    assert not told.asked


# --- real configurations -------------------------------------------------------------------------


class Breaking(Plan):
    """Phase A with one candidate whose numbers break."""

    def throughput(self):
        broken = dataclasses.replace(self.start, learning_rate=1e30)
        return {"broken": broken, "fine": dataclasses.replace(self.start, batch_size=64)}


def test_numbers_that_break_are_recorded_and_the_protocol_goes_on(bench):
    plan = Breaking(START, ("A",))
    outcome = run_protocol(bench, plan)
    stored = json.loads((bench.folder / "configurations/broken/result.json").read_text())
    assert stored["state"] == "failed" and "'policy'" in stored["reason"]
    assert outcome.results["fine"]["state"] == "done"
    rows = {row["name"]: row for row in document(bench, plan, outcome)["rows"]}
    assert rows["broken"]["why"].startswith("échec")
    assert rows["fine"]["speed"] > 0 and outcome.speeds.keys() == {DEFAULT, "fine"}


def test_a_resumed_run_takes_what_is_finished(bench, order, data):
    first = bench.result("default", START)
    again = Bench(order, data, bench.book, bench.folder, resume=True)
    assert again.result("default", START) == first and again.reused == ["default"]
    anew = again.result("default", dataclasses.replace(START, seed=1))
    assert anew["mark"] != first["mark"] and again.reused == ["default"]


def test_a_resumed_run_refuses_a_model_that_was_altered(bench, order, data):
    bench.result("default", START)
    model = bench.folder / "configurations/default/model" / MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    again = Bench(order, data, bench.book, bench.folder, resume=True)
    with pytest.raises(PolicyError, match=MODEL_FILE):
        again.result("default", START)


def test_ctrl_c_keeps_what_is_finished(bench, monkeypatch):
    fit = room.fit

    def interrupted(network, data, options, *rest):
        if options.batch_size == 64:
            raise KeyboardInterrupt
        return fit(network, data, options, *rest)

    monkeypatch.setattr(room, "fit", interrupted)
    plan = Plan(START)
    outcome = run_protocol(bench, plan)
    assert outcome.interrupted and list(outcome.results) == [DEFAULT]
    assert document(bench, plan, outcome)["verdict"] is None
    assert not (bench.folder / "configurations/batch_64/result.json").exists()


@pytest.mark.parametrize("which", ["data", "splits", "judging_days"])
def test_rows_of_other_hashes_never_stand_in_one_table(bench, which):
    hashes = bench.hashes()
    other = {"name": "b", "hashes": {**hashes, which: "0" * 64}}
    with pytest.raises(TrainingError, match=f"a and b cannot .* {which} differs, {hashes[which]}"):
        refuse_mixed([{"name": "a", "hashes": hashes}, other])
    assert refuse_mixed([{"name": "a", "hashes": hashes}] * 2) == hashes


def test_the_judging_days_are_not_those_of_the_losses(bench, data):
    assert not {*data.labels["train"], *data.labels["val"]} & set(bench.book.labels)


@pytest.mark.slow
def test_the_exported_graph_answers_as_torch_on_validation_states(order, data, tmp_path, engine):
    whole = Bench(order, data, judging_book(order, None, 2), tmp_path)
    found = whole.result("default", START)["parity"]
    assert found["states"] == len(data.val)
    assert 0 < found["relative"] < 1e-4 and found["same_decisions"] == 1.0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({LOOP: 1.0, PREPARED: 2.3}, "tenu (préparées une fois, en mémoire)"),
        ({LOOP: 1.0, PREPARED: 1.9, THREADS: 2.1}, "tenu (de même, tous les processeurs)"),
        ({LOOP: 1.0, PREPARED: 1.9, THREADS: 1.2}, "**manqué**"),
    ],
)
def test_the_report_says_whether_a_pass_takes_half_the_time(found, said):
    text = "\n".join(_loader(found))
    assert "Temps par époque divisé par 2 contre cette boucle, avec les mêmes pertes" in text
    assert f"pertes : {said}." in text
