"""The gate: who passes, who is stopped, by which line, and what its report says."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from scripts.rl import gate as command
from scripts.rl.command import exit_code
from services.rl.errors import BundleError, UsageError
from services.rl.evaluation.gate import limits_of, run_gate
from services.rl.evaluation.gate_days import fresh_days
from services.rl.evaluation.gate_lines import LEVERS, GateLimits, comparison, line_of
from services.rl.evaluation.gate_play import TALLY, Played
from services.rl.evaluation.gate_report import FRENCH
from services.rl.evaluation.paired import Estimate
from services.rl.evaluation.planted import planted_bundle
from services.rl.policies.registry import make_policy
from services.rl.serving.bundle import write_bundle
from services.rl.simulation.scenarios import load_scenario

from .gates import GENEVA, made, wide
from .logged_days import logged_days

ON = date(2026, 3, 2)
DAYS, STRESS, SERVED = 16, 6, 1


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return made(tmp_path_factory.mktemp("bundles"))


def judged(candidate, champion, **changes):
    asked = {"on": ON, "days": DAYS, "stress_days": STRESS, "served_days": SERVED,
             "limits": wide(DAYS, STRESS), **changes}  # fmt: skip
    return run_gate(candidate, champion, GENEVA, **asked)


@pytest.fixture(scope="module")
def passed(bundles):
    """The filed planner against a weaker champion."""
    return judged(bundles["planner"], bundles["matching"])


# --- verdicts ------------------------------------------------------------------------------------


def test_the_filed_planner_passes_against_a_weaker_champion(passed):
    assert passed.go, passed.failed
    assert passed.line("champion.reward").low > 0.0
    assert passed.line("heuristic.unserved").low > 0.0


def test_days_without_a_booking_let_nobody_pass():
    nothing = Played("anybody", np.zeros((20, len(TALLY))))
    lines = comparison("heuristic", nothing, nothing, GateLimits())
    assert {line.name for line in lines if line.verdict == "fail"} == {
        "heuristic.reward", "heuristic.on_time", "heuristic.unserved",
    }  # fmt: skip
    few = comparison("real_heuristic", nothing, nothing, GateLimits(), proven=True)
    assert all(line.verdict == "not_estimable" for line in few)


@pytest.mark.parametrize("kind", ["planner", "matching"])
def test_a_candidate_that_is_the_champion_passes(bundles, kind):
    report = judged(bundles[kind], bundles[kind])
    assert report.go, report.failed
    mine = [line for line in report.lines if line.group == "champion"]
    assert len(mine) == 6
    assert all(line.value == 0.0 and line.low == 0.0 for line in mine)


@pytest.mark.parametrize("kind", ["shuffled", "far"])
def test_a_planted_bad_candidate_is_stopped_by_proof_not_by_doubt(bundles, kind):
    report = judged(bundles[kind], bundles["planner"])
    assert not report.go
    proven = {line.name for line in report.failed if line.high < line.threshold}
    assert "champion.on_time" in proven
    if kind == "far":
        # What it refuses shows in who is left, not in who is late.
        assert {"champion.reward", "champion.unserved", "heuristic.unserved"} <= proven
        assert report.line("champion.urgent_late_15").verdict == "pass"
    assert all(line.advice in (*LEVERS.values(),) for line in report.failed if line.name in proven)


def test_a_worse_candidate_is_stopped_and_the_better_one_was_not(bundles, passed):
    report = judged(bundles["matching"], bundles["planner"])
    assert "champion.reward" in {line.name for line in report.failed}
    there, back = passed.line("champion.reward"), report.line("champion.reward")
    assert there.value == pytest.approx(-back.value)  # the same days, the other way round


def test_the_yardstick_is_todays_matching_not_the_candidates_own(bundles, tmp_path):
    spoilt = planted_bundle("far", bundles["matching"], tmp_path / "spoilt")
    report = judged(spoilt, bundles["matching"])
    assert report.line("heuristic.reward").verdict == "fail"
    assert report.line("fallback.reward").verdict == "fail"


def test_without_a_champion_the_heuristic_is_the_measure(bundles):
    report = judged(bundles["planner"], None)
    assert report.go and report.champion is None
    assert not [line for line in report.lines if line.group == "champion"]


def test_real_days_are_replayed_and_few_of_them_stop_only_what_is_proven(bundles):
    real = fresh_days(GENEVA, date(2025, 1, 1), 4)
    good = judged(bundles["planner"], bundles["matching"], real_days=real)
    assert {ln.verdict for ln in good.lines if ln.group == "real_champion"} <= {"pass", "info"}
    assert good.real_days == [day.label for day in real]
    bad = judged(bundles["far"], bundles["planner"], real_days=real)
    assert bad.line("real_champion.unserved").verdict == "fail"


def test_another_night_has_other_days_and_the_same_night_the_same(bundles, passed):
    again = judged(bundles["planner"], bundles["matching"])
    compared = ("champion", "heuristic", "stress")

    def numbers(report):
        return [(ln.name, ln.value, ln.low) for ln in report.lines if ln.group in compared]

    assert numbers(again) == numbers(passed)
    other = judged(bundles["matching"], bundles["matching"], on=date(2026, 3, 3))
    assert other.seeds[0] == passed.seeds[0] + 1_000


def test_what_is_served_is_what_was_judged(passed):
    assert passed.line("serving.as_judged").value == 1.0
    assert passed.line("serving.fallbacks").value == 0.0
    assert passed.line("serving.refused").value == 0.0
    assert passed.line("serving.latency_p99").facts["decisions"] >= 96


def test_a_model_slower_than_its_budget_is_stopped(tmp_path, bundles):
    slow = write_bundle(tmp_path / "slow", "planner", GENEVA, policy={"moves": 1_500},
                        budget_ms=0.01)  # fmt: skip
    line = judged(slow, None, days=2, stress_days=1).line("serving.latency_p99")
    assert line.verdict == "fail" and "export again" in line.advice


# --- the log -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged():
    days = fresh_days(GENEVA, date(2026, 1, 5), 6)
    return {
        epsilon: list(logged_days(GENEVA, make_policy("matching", GENEVA), days, epsilon=epsilon))
        for epsilon in (0.0, 0.5)
    }


def test_a_greedy_log_gives_no_estimate_and_stops_nobody(bundles, logged):
    report = judged(bundles["matching"], bundles["matching"], experiences=logged[0.0])
    line = report.line("off_policy.gain")
    assert line.verdict == "not_estimable" and "nothing was explored" in line.advice
    assert report.go
    assert report.left_out["no other driver was open to exploration"] == len(logged[0.0])


def test_an_explored_log_lets_the_policy_that_wrote_it_be_estimated(bundles, logged):
    report = judged(bundles["matching"], bundles["matching"], experiences=logged[0.5])
    found = report.off_policy
    assert found.estimable, found.why
    # Without its detours the policy earns at least what it earned with them, within the interval.
    assert report.line("off_policy.gain").high > 0.0
    # Its own plan, asked again on the logged state, is the logged one wherever nobody explored.
    planned = [e for e in logged[0.5] if e.k > 1 and e.propensity > 0.5]
    explorable = [e for e in logged[0.5] if e.k > 1]
    agreed = report.line("off_policy.gain").facts["agree"]
    assert agreed == pytest.approx(len(planned) / len(explorable), abs=0.02)
    assert found.mass == pytest.approx(1.0, abs=0.1)
    assert report.line("calibration.pickup_bias").verdict == "pass"
    assert report.go, report.failed


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "half", "proven", "verdict"),
    [
        (0.0, 0.9, False, "pass"),
        (0.0, 1.1, False, "fail"),  # a loss beyond the margin is not ruled out
        (-2.0, 0.5, False, "fail"),
        (3.0, 4.5, False, "fail"),
        (3.0, 3.9, False, "pass"),
        (0.0, 1.1, True, "info"),
        (-2.0, 0.5, True, "fail"),
        (-1.2, 0.5, True, "info"),
        (0.0, float("inf"), False, "fail"),
        (0.0, float("inf"), True, "not_estimable"),
        (float("nan"), float("inf"), False, "not_estimable"),
    ],
)
def test_must_not_lose(mean, half, proven, verdict):
    line = line_of(
        "x.reward", "reward", "points", Estimate(mean, half), 1.0, "lever", proven=proven
    )
    assert line.verdict == verdict
    if verdict == "fail":
        assert line.advice


def test_doubt_asks_for_days_and_loss_for_a_lever():
    assert "--days" in line_of("x", "x", "points", Estimate(0.1, 2.0), 1.0, "lever").advice
    assert line_of("x", "x", "points", Estimate(-3.0, 1.0), 1.0, "lever").advice == "lever"


def test_limits_are_changed_by_name():
    assert limits_of({"reward_pct": 0.5}).reward_pct == 0.5
    assert limits_of({}) == GateLimits()
    with pytest.raises(UsageError, match="there is no limit 'margin'"):
        limits_of({"margin": 1.0})


# --- reports -------------------------------------------------------------------------------------


def test_the_report_is_json_markdown_and_figures(passed, tmp_path):
    paths = passed.write(tmp_path / "gate")
    assert {path.name for path in paths} == {"gate.json", "gate.md", "gate_gains.png"}
    assert not [p for p in (tmp_path / "gate").iterdir() if "partial" in p.name]
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    assert document["go"] is True and document["failed"] == []
    assert document["seeds"] == list(passed.seeds)
    assert {"name", "value", "low", "high", "threshold", "verdict", "advice"} <= set(
        document["lines"][0]
    )
    text = paths[1].read_text(encoding="utf-8")
    assert text.startswith("# Gate of 2026-03-02: GO")
    assert "2.5 %" in text  # multiplicity is stated
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_no_go_names_its_levers_first(bundles):
    text = judged(bundles["far"], bundles["planner"]).markdown()
    assert text.startswith("# Gate of 2026-03-02: NO-GO")
    assert text.index("Why not, and what to try") < text.index("Fresh days, against the champion")
    assert LEVERS["unserved"] in text


def test_every_word_of_a_line_has_its_french(passed):
    words = {word for line in passed.lines for word in line.name.split(".")}
    assert words <= set(FRENCH), words - set(FRENCH)


# --- wrong input, and the command ----------------------------------------------------------------


def test_a_bundle_of_another_scenario_is_refused(bundles):
    with pytest.raises(BundleError, match="the gate's is 'geneva_overload'"):
        run_gate(bundles["matching"], None, load_scenario("geneva_overload"), on=ON, days=2)


def test_more_days_than_a_date_has_are_refused(bundles):
    with pytest.raises(UsageError, match="1 to 1,000 fresh days, got 1001"):
        judged(bundles["matching"], None, days=1_001)


def test_the_gate_does_not_import_torch():
    code = (
        "import sys, services.rl.evaluation.gate, scripts.rl.gate; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False,
                          cwd=Path(command.__file__).parents[2])  # fmt: skip
    assert done.returncode == 0


def test_the_command_exits_with_the_verdict(bundles, tmp_path, atmr_home, capsys):
    few = ["--days", "4", "--stress-days", "2", "--date", "2026-03-02", "--threads", "1"]
    good, bad = str(bundles["matching"].path), str(bundles["far"].path)
    target = tmp_path / "gate.json"
    assert exit_code(command.main, [good, "--champion", good, *few, "--json", str(target)]) == 0
    assert json.loads(target.read_text(encoding="utf-8"))["go"] is True
    assert "GO in" in capsys.readouterr().out
    report = tmp_path / "report"
    asked = [bad, "--champion", good, *few, "--report", str(report), "--quiet"]
    assert exit_code(command.main, asked) == 1
    assert capsys.readouterr().out == ""
    assert (report / "gate.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no candidate is registered"),
        (["0123456789ab"], "0123456789ab"),
        (["{good}", "--champion", "none", "--limit", "margin=1"], "no limit 'margin'"),
        (["{good}", "--champion", "none", "--dataset", "/nowhere"], "no data set"),
    ],
)
def test_wrong_usage_is_one_sentence(bundles, atmr_home, capsys, arguments, words):
    good = str(bundles["matching"].path)
    asked = [argument.format(good=good) for argument in arguments]
    assert exit_code(command.main, asked) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


# --- in full -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "go"), [("planner", True), ("shuffled", False), ("far", False)])
def test_a_night_of_full_length(bundles, kind, go):
    report = run_gate(bundles[kind], bundles["planner"], GENEVA, on=ON, threads=2)
    assert report.go is go, report.failed
    assert report.days == 400 and np.isfinite(report.seconds)
