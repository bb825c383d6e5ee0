"""`adapt.py`: the shares it tells, the gate it keeps to, the worlds it makes."""

import json

import numpy as np
import pytest

from scripts.rl.adapt import SHIFTS, main, recovered, shifted, told
from scripts.rl.command import exit_code
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario

GENEVA = load_scenario("geneva")


def test_the_share_of_a_gain_has_an_interval():
    rng = np.random.default_rng(1)
    champion = rng.normal(600, 50, 200)
    full = champion + rng.normal(20, 30, 200)
    half = champion + 0.5 * (full - champion)
    share = recovered(half, champion, full, 0)
    assert share["share"] == pytest.approx(0.5)
    noisy = recovered(half + rng.normal(0, 10, 200), champion, full, 0)
    assert noisy["low"] < noisy["share"] < noisy["high"]


def test_no_share_is_told_of_a_gain_that_cannot_be_told_from_nothing():
    rng = np.random.default_rng(1)
    champion = rng.normal(600, 50, 200)
    full = champion + rng.normal(0, 30, 200)
    assert recovered(full, champion, full, 0) == {"share": None, "low": None, "high": None}


def test_worlds_are_shifted_as_named():
    factor, moved = SHIFTS["strong"]
    after = shifted(GENEVA, factor, moved)
    assert after.demand.bookings_per_day == pytest.approx(136)
    sites = {site.name: site for site in after.place.sites}
    for name, change in moved.items():
        assert sites[name].lat == change["lat"]
    with pytest.raises(UsageError, match="has no site"):
        shifted(GENEVA, 1.0, {"nowhere": {"lat": 1.0}})


@pytest.mark.slow
def test_every_cell_is_played_once(atmr_home, tmp_path):
    arguments = ["--tiny", "--nights", "1", "--kinds", "planner", "--quiet"]
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    assert exit_code(main, [*arguments, "--json", str(first)]) == 0
    cells = {p: p.stat().st_mtime_ns for p in (atmr_home / "results").rglob("*") if p.is_file()}
    assert exit_code(main, [*arguments, "--json", str(second)]) == 0
    assert {p: p.stat().st_mtime_ns for p in cells} == cells
    results = [json.loads(path.read_text())["kinds"] for path in (first, second)]
    assert results[0] == results[1]
    assert "after day 1" in told(results[0][0])
