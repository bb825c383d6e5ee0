"""`auto_tune.py protocol`: what it leaves and says, and what it refuses in one sentence."""

import json
import signal

import numpy as np
import pytest

from scripts.rl import auto_tune_protocol
from scripts.rl.auto_tune import main
from scripts.rl.command import exit_code
from services.rl.training.protocol import bench as bench_room
from services.rl.training.protocol import dataset as dataset_room
from services.rl.training.protocol import protocol as protocol_room

TINY = ["protocol", "--scenario", "geneva_small", "--mode", "sanity", "--days", "2",
        "--val-days", "1", "--judge-days", "3", "--epochs", "1", "--batch-size", "32",
        "--name", "tiny"]  # fmt: skip


def tune(*arguments):
    return exit_code(main, list(arguments))


def sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert error and error.count("\n") == 0, error
    return error


@pytest.fixture
def no_export(monkeypatch):
    """The exporter takes seconds; `test_protocol` and the slow test look at it."""
    parity = {"states": 1, "relative": 0.0, "same_decisions": 1.0}
    monkeypatch.setattr(bench_room, "export_parity", lambda *_: dict(parity))
    monkeypatch.setattr(bench_room.Bench, "backends", lambda *_: [])


def read(home):
    return json.loads((home / "results/tiny/protocol.json").read_text())


def test_three_phases_end_to_end(atmr_home, capsys, no_export, tmp_path):
    at = tmp_path / "out" / "result.json"
    assert tune(*TINY, "--json", str(at)) == 1  # NO-GO: no backend was measured
    out = capsys.readouterr().out
    assert "NO-GO, the default stays; report in" in out and "BROKEN" in out
    assert "e+" not in out
    found = read(atmr_home)
    assert found["verdict"] == "NO-GO"
    also = json.loads(at.read_text())
    assert also["rows"] == found["rows"] and also["commit"] == found["provenance"]["commit"]
    assert [row["phase"] for row in found["rows"]] == list("AAABBB") + ["C"] * (
        3 if found["winner"] == "default" else 6
    )
    first, second = found["rows"][:2]
    assert second["options"]["batch_size"] == 2 * first["options"]["batch_size"]
    assert set(second["differences"]) == {"reward", "on_time", "unserved_urgent"}
    assert second["kpis"]["reward"] != 0 and second["fit"]["features_computed"] == 0
    assert found["provenance"]["seed"] == 0 and len(found["provenance"]["commit"]) == 40
    text = (atmr_home / "results/tiny/protocol.md").read_text()
    assert "## Verdict : NO-GO" in text and found["hashes"]["data"] in text
    assert all(f"`{f['measure']}`" in text for f in found["findings"])
    assert text.count("\n| ") >= len(found["rows"])
    picture = (atmr_home / "results/tiny/protocol.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert not list((atmr_home / "results").rglob("*partial*"))


@pytest.mark.slow  # the same of the library: test_a_resumed_run_takes_what_is_finished
def test_a_run_that_is_resumed_fits_nothing_again(atmr_home, no_export, monkeypatch, capsys):
    phases = ["--phases", "A"]
    assert tune(*TINY, *phases, "--quiet") == 0
    before = read(atmr_home)

    def never(*_):
        raise AssertionError("it was fitted again")

    monkeypatch.setattr(bench_room, "fit", never)
    assert tune(*TINY, *phases, "--resume") == 0
    after = read(atmr_home)
    assert after["rows"] == before["rows"]
    assert after["reused"] == ["default", "batch_64", "batch_128"]
    assert "done before" in capsys.readouterr().out


def test_a_run_is_not_written_over_and_goes_on_only_as_it_began(
    atmr_home, no_export, monkeypatch, capsys
):
    assert tune(*TINY, "--phases", "A", "--quiet") == 0
    before = read(atmr_home)
    played = dataset_room.data_set

    def never(*_, **__):
        raise AssertionError("it was refused too late")

    monkeypatch.setattr(dataset_room, "data_set", never)
    capsys.readouterr()
    for given, said in (
        (["--phases", "C"], "--name tiny: it has 3 finished configurations already; go on with "
         "--resume, or choose another --name"),
        (["--resume", "--seed", "5"], "--seed 0 there, 5 now"),
        (["--resume", "--days", "3"], "--days 2 there, 3 now"),
        (["--resume", "--scenario", "geneva"], "--scenario geneva_small there, geneva now"),
    ):  # fmt: skip
        assert tune(*TINY, "--quiet", *given) == 2, given
        assert said in sentence(capsys)
    assert read(atmr_home) == before
    monkeypatch.setattr(dataset_room, "data_set", played)
    assert tune(*TINY, "--phases", "B", "--resume") == 0
    assert "no verdict" in capsys.readouterr().out
    after = read(atmr_home)
    assert after["reused"] == ["default", "batch_64", "batch_128"]
    assert after["rows"][:3] == before["rows"]
    assert [row["phase"] for row in after["rows"]] == list("AAABBB")


def test_resuming_on_other_arrays_of_the_same_recipe_is_refused(atmr_home, no_export, capsys):
    assert tune(*TINY, "--phases", "C", "--quiet") == 1
    report = atmr_home / "results/tiny/protocol.json"
    began = read(atmr_home)["hashes"]["data"]
    report.write_text(report.read_text().replace(began, "f" * 64))
    capsys.readouterr()
    assert tune(*TINY, "--resume", "--quiet") == 2
    said = sentence(capsys)
    assert "f" * 64 in said and f"this one is {began}" in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_docker_stop_write_what_is_finished_and_say_how_to_go_on(
    atmr_home, no_export, monkeypatch, capsys, how
):
    fit = bench_room.fit
    before = signal.getsignal(signal.SIGTERM)
    if how == signal.SIGINT:  # a shell may have started the tests with it ignored
        before_int = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(network, data, options, *rest):
        if options.batch_size == 64:
            signal.raise_signal(how)
        return fit(network, data, options, *rest)

    monkeypatch.setattr(bench_room, "fit", interrupted)
    assert tune(*TINY) == 130
    if how == signal.SIGINT:
        signal.signal(signal.SIGINT, before_int)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "auto_tune.py protocol" in (said := sentence(capsys)) and said.endswith("--resume")
    found = read(atmr_home)
    assert [row["name"] for row in found["rows"]] == ["default"] and found["interrupted"]
    assert "interrompu" in (atmr_home / "results/tiny/protocol.md").read_text()
    monkeypatch.setattr(bench_room, "fit", fit)
    assert tune(*TINY, "--phases", "A", "--resume", "--quiet") == 0
    assert read(atmr_home)["reused"] == ["default"]


def test_a_run_that_ends_while_the_teacher_plays_says_how_to_go_on(atmr_home, monkeypatch, capsys):
    def stopped(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(dataset_room, "data_set", stopped)
    assert tune(*TINY) == 130
    assert sentence(capsys).endswith("--name tiny --resume")


def test_go_is_exit_code_0(atmr_home, no_export, monkeypatch):
    good = {"reward": 0.0, "on_time": 0.0, "unserved_urgent": 0.0, "parity": 0.0, "decisions": 1.0,
            "features": 0.0, "serving": 0.0, "val_total": -5.0, "spread": 1.0}  # fmt: skip
    monkeypatch.setattr(protocol_room, "_verdict_measures", lambda *_: good)
    assert tune(*TINY, "--phases", "C", "--quiet") == 0
    assert read(atmr_home)["verdict"] == "GO"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--phases", "A,D"], "there is no phase 'D'"),
        (["--phases", ""], "there is no phase ''"),
        (["--epochs", "0"], "--epochs"),
        (["--early-stop-patience", "0"], "--early-stop-patience"),
        (["--batch-size", "0"], "--batch-size"),
        (["--lr", "-1"], "--lr"),
        (["--w-value", "-0.5"], "--w-value"),
        (["--w-policy", "nan"], "--w-policy"),
        (["--w-policy", "0", "--w-value", "0"], "both 0"),
        (["--scenario", "nowhere"], "nowhere"),
        (["--name", "../out"], "--name '../out': a name has"),
        (["--teacher", "nobody"], "nobody"),
        (["--batch-size", "4096"], "larger than the data set's"),
        (["--mode", "gpu"], "--mode"),
    ],
)
def test_wrong_usage_is_one_sentence(atmr_home, capsys, wrong, said):
    try:
        code = tune(*TINY, "--quiet", *wrong)
    except SystemExit as stopped:  # the parser's own
        code = stopped.code
    assert code == 2
    assert said in sentence(capsys)


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        tune("protocol", "--help")
    assert stopped.value.code == 0
    assert "auto_tune.py protocol --scenario" in capsys.readouterr().out


def test_every_mode_has_a_budget_that_its_batches_fit():
    """A day of the smallest scenario has over a hundred states."""
    for budget in auto_tune_protocol.BUDGETS.values():
        assert 4 * budget.batch_size <= 110 * budget.days


@pytest.mark.slow
def test_the_whole_protocol_with_export_and_both_backends(atmr_home, capsys):
    assert tune(*TINY) in (0, 1)
    found = read(atmr_home)
    names = {row["name"]: row for row in found["backends"]}
    assert {"torch_fp32", "onnx_fp32"} <= set(names)
    assert names["onnx_fp32"]["passes"] and np.isfinite(names["onnx_fp32"]["reward_pct"])
    measured = {f["measure"]: f for f in found["findings"]}
    for measure in ("parity", "decisions", "serving", "features"):
        assert measured[measure]["holds"], measured[measure]
    assert "onnx_fp32" in (atmr_home / "results/tiny/protocol.md").read_text()
