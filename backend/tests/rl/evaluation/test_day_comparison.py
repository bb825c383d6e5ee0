"""One day under two policies: sums agree, fates and reasons are what happened, and nothing else."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from services.rl.errors import UsageError
from services.rl.evaluation import day_pictures
from services.rl.evaluation.day_comparison import Fate, compare_day, play
from services.rl.evaluation.day_report import decisions_csv, report_text, to_json, write_replay
from services.rl.evaluation.parting_reasons import (
    deed,
    first_parting_bookings,
    parting_reason,
    reason,
)
from services.rl.evaluation.runner import DayBook, play_day
from services.rl.policies.base import Decision, DecisionSet
from services.rl.policies.registry import make_policy
from services.rl.simulation.scenarios import load_scenario

from ..policies.geneva_days import booking, day_of, driver, even_scenario
from ..simulation.worlds import changed, disturbed, manhattan

ORIGIN = {"command": "replay_day.py", "commit": "abc"}


class Script:
    """Does what it is told: ``{minute: [(booking, driver), ...]}``."""

    def __init__(self, name, orders):
        self.name, self.orders = name, orders

    def decide(self, state, *, plan=None, budget_ms=None, rng=None):
        decisions = [
            Decision(state.booking_ids.index(f"booking-{row}"), driver)
            for row, driver in self.orders.get(state.now_min, [])
        ]
        return DecisionSet(tuple(decisions))


def seed_book(scenario, seed):
    return DayBook(scenario, (f"seed {seed}",), seeds=(seed,))


def compared(bookings, drivers, first, second, **rules):
    """A hand-made day (30 km/h, half a point per kilometre) under two scripts."""
    scenario = even_scenario(**rules)
    book = DayBook(scenario, ("by hand",), days=(day_of(bookings, drivers),))
    return compare_day(book, (Script("calm", first), Script("keen", second))), book


def check_sums(comparison):
    for day in (comparison.a, comparison.b):
        booked = dict(zip(day.terms, day.contributions.sum(axis=0), strict=True))
        for term, value in day.terms.items():
            expected = value if term not in day.elsewhere else 0.0
            assert booked[term] == pytest.approx(expected, abs=1e-9), term
        total = day.contributions.sum() + sum(day.elsewhere.values())
        assert total == pytest.approx(day.kpis["reward"], abs=1e-9)
        assert day.curve[-1, 1] == pytest.approx(day.kpis["reward"], abs=1e-9)
        assert (np.diff(day.curve[:, 0]) >= 0).all()
    fates = comparison.by_fate()
    found = sum(total for _, total in fates.values()) + comparison.elsewhere()
    assert found == pytest.approx(comparison.difference(), abs=1e-9)
    assert sum(count for count, _ in fates.values()) == len(comparison.a.history)


@pytest.mark.parametrize("seed", range(6))
def test_differences_by_booking_add_up_to_the_days_whatever_goes_wrong(seed):
    scenario = disturbed("geneva", on_time_min=10)
    book = seed_book(scenario, seed)
    pair = tuple(make_policy(name, scenario) for name in ("nearest", "matching"))
    comparison = compare_day(book, pair)
    assert comparison.partings
    check_sums(comparison)


def test_such_days_do_have_breakdowns_no_shows_and_call_offs():
    kinds = np.zeros(3)
    for seed in range(6):
        scenario = disturbed("geneva", on_time_min=10)
        kpis = play(seed_book(scenario, seed), make_policy("matching", scenario)).kpis
        kinds += [kpis["released"], kpis["no_shows"], kpis["called_off"]]
    assert (kinds > 0).all()


def test_terms_of_the_day_as_a_whole_stand_apart():
    scenario = changed("geneva_small", reward={"balance": 20.0, "idle_per_min": 0.01})
    pair = tuple(make_policy(name, scenario) for name in ("nearest", "matching"))
    comparison = compare_day(seed_book(scenario, 7), pair)
    check_sums(comparison)
    assert comparison.elsewhere() != 0.0
    assert "terms of no single booking" in report_text(comparison, ORIGIN, [], [])


def test_differences_add_up_under_profit_rules(tmp_path):
    scenario, source, days = manhattan(tmp_path)
    book = DayBook(scenario, (days[0].label,), days=(days[0],), source=source)
    pair = tuple(make_policy(name, scenario, source=source) for name in ("nearest", "matching"))
    comparison = compare_day(book, pair)
    assert comparison.partings
    check_sums(comparison)


@pytest.mark.parametrize("name", ["random", "matching", "rolling_search@200"])
def test_a_day_is_played_as_evaluations_play_it(name):
    scenario = load_scenario("geneva_small")
    book = seed_book(scenario, 1_000_000)
    engine = book.engine([0])
    play_day(make_policy(name, scenario), engine, seed=3)
    assert play(book, make_policy(name, scenario), seed=3).kpis == engine.kpis()


@pytest.mark.parametrize("seed", [0, 3])
def test_a_replay_from_commitments_is_the_day_again(seed):
    book = seed_book(disturbed(), seed)
    day = play(book, make_policy("matching", book.scenario))
    replay = day_pictures.Replay(book, day)
    engine = replay.decided(len(day.epochs) - 1)
    engine.wait(0)
    assert engine.ended()
    # To act costs a step, so that refused or repeated commitments would show.
    assert engine.kpis() == day.kpis
    history = engine.history()
    for name in history.dtype.names:
        np.testing.assert_array_equal(history[name], day.history[name])


# --- by hand: a kilometre takes two minutes and costs half a point -------------------------------


def kept_for_the_urgent():
    """Driver 0 is at 0 km, driver 1 at 5 km; an easy booking at 2 km, an urgent one at -1 km."""
    bookings = [
        booking(10, 2, 4, priority=1),
        booking(10, -1, -3, priority=5, wheelchair=True, created=5.0),
    ]
    return compared(
        bookings, [driver(0, wheelchair=True), driver(5)], {0: [(0, 0)]}, {0: [(0, 1)], 5: [(1, 0)]}
    )


def test_a_driver_kept_for_an_urgent_booking_is_told_with_its_numbers():
    comparison, _ = kept_for_the_urgent()
    easy, urgent = (next(p for p in comparison.partings if p.booking == b) for b in (0, 1))
    assert (easy.fate, urgent.fate) == (Fate.OTHER_DRIVER, Fate.ONLY_B)
    words = parting_reason(comparison, easy)
    assert "calm gave it to driver 0 (2.0 km away, to leave at 08:06)" in words
    assert "keen to driver 1 (1.0 km farther" in words
    assert "keen could have sent driver 0 as well (2.0 km away); it next gave that driver" in words
    assert "booking 1 (priority 5, wheelchair, 30 min to spare, 1.0 km away" in words
    assert "at 08:05" in words
    assert (
        "calm could have sent driver 1 as well (3.0 km away); it gave that driver nothing" in words
    )
    # Serving, a kilometre empty, and the penalty of priority 5 that is not paid.
    worth = comparison.b.worth(1)
    assert f"it brought {worth:+.1f}" in words
    assert urgent.difference == pytest.approx(worth - comparison.a.worth(1))
    assert easy.difference == pytest.approx(-0.5 * 1.0, rel=1e-4)


def test_the_first_parting_is_the_first_epoch_that_differs():
    orders = {0: [(0, 0)]}
    comparison, _ = compared(
        [booking(10, 1, 2), booking(60, 2, 3), booking(120, 1, 2)],
        [driver(0), driver(5)],
        orders | {30: [(1, 0)], 90: [(2, 0)]},
        orders | {35: [(1, 0)], 90: [(2, 1)]},
    )
    assert comparison.first == 6
    assert first_parting_bookings(comparison) == [1]
    assert all(comparison.apart(epoch) == ([], []) for epoch in range(6))
    assert comparison.apart(6) == ([0], [1])
    assert comparison.apart(7) == ([], [])
    # Decided later, picked up at the same time by the same driver: not another fate.
    assert [p.booking for p in comparison.partings] == [2]
    words = reason(comparison, 1, 6)
    assert "At 08:30 calm gave it to driver 0" in words
    assert "keen left it open until 08:35 and gave it to the same driver" in words


def test_who_never_gives_a_booking_is_told_the_last_chance():
    comparison, _ = compared(
        [booking(30, 10, 12, window=10), booking(30, 0, 1, priority=5)],
        [driver(0)],
        {0: [(0, 0)]},
        {20: [(1, 0)]},
        grace_min=5,
    )
    parting = next(p for p in comparison.partings if p.booking == 0)
    words = parting_reason(comparison, parting)
    assert "keen gave it to nobody." in words
    # Ten kilometres take 20 minutes; the pickup must be by 30 + 10 + 5.
    assert "As late as 08:25 driver 0 could still" not in words
    assert "The last time anyone could take it was 08:20" not in words
    assert "As late as 08:20 driver 0 could still have taken it" in words
    assert "it next gave that driver booking 1 (priority 5" in words
    assert deed(comparison, comparison.b, 0) == "not served"


def test_a_driver_whose_queue_is_full_could_take_no_more():
    far = [booking(30, 1, 30), booking(100, 29, 28), booking(30, 0, 1)]
    comparison, _ = compared(
        far, [driver(0), driver(0)], {0: [(2, 0)]}, {0: [(0, 0), (1, 0)], 5: [(2, 1)]}, queue=1
    )
    words = reason(comparison, 2, 0)
    assert "keen could have sent driver 0 as well" in words, "before it decided, it could"
    again = next(p for p in comparison.partings if p.booking == 2)
    assert again.a.driver == 0 and again.b.driver == 1
    comparison, _ = compared(
        far, [driver(0), driver(0)], {5: [(2, 0)]}, {0: [(0, 0), (1, 0)], 10: [(2, 1)]}, queue=1
    )
    assert "Under keen driver 0 already had 2 bookings, until" in reason(comparison, 2, 1)


def test_a_booking_lost_by_a_breakdown_names_the_breakdown():
    comparison, _ = compared(
        [booking(30, 5, 6)],
        [driver(0, breakdown_min=22.0, repaired_min=400.0), driver(-3)],
        {0: [(0, 0)]},
        {0: [(0, 1)]},
    )
    parting = comparison.partings[0]
    assert parting.fate is Fate.ONLY_B
    words = parting_reason(comparison, parting)
    assert "Under calm driver 0 broke down at 08:22 and lost it." in words
    assert deed(comparison, comparison.a, 0).startswith(
        "not served, after it was given to driver 0"
    )
    assert "broke down" not in parting_reason(*kept_for_the_urgent_parting())


def kept_for_the_urgent_parting():
    comparison, _ = kept_for_the_urgent()
    return comparison, comparison.partings[0]


def test_given_alike_after_different_work_is_told_as_such():
    comparison, _ = compared(
        [booking(20, 1, 8), booking(60, 1, 2, window=60)],
        [driver(0), driver(0)],
        {0: [(0, 0)], 5: [(1, 0)]},
        {0: [(0, 1)], 5: [(1, 0)]},
    )
    words = reason(comparison, 1, 1)
    assert words.startswith("Both gave it to driver 0 at 08:05, but the driver's earlier work")
    assert "under calm 7.0 km away" in words and "under keen 1.0 km away" in words


# --- telling and drawing it ----------------------------------------------------------------------


def test_policies_that_decide_alike_never_part():
    orders = {0: [(0, 0)]}
    comparison, _ = compared([booking(10, 1, 2)], [driver(0)], orders, orders)
    assert comparison.first is None and not comparison.partings
    assert comparison.moments(3) == [16, 48, 80], "evenly spread over 96 epochs"
    text = report_text(comparison, ORIGIN, [], [])
    assert "decided alike all day" in text and "They never do" in text
    assert decisions_csv(comparison) == ""
    assert to_json(comparison)["first_parting"] is None


def test_moments_begin_with_the_first_parting_and_keep_apart():
    scenario = load_scenario("geneva_small")
    pair = tuple(make_policy(name, scenario) for name in ("nearest", "matching"))
    comparison = compare_day(seed_book(scenario, 1_000_000), pair)
    moments = comparison.moments(4)
    assert len(moments) == 4 and moments[0] == comparison.first
    assert (np.diff(moments) >= 5).all()
    assert moments[-1] < len(comparison.a.epochs)
    assert comparison.moments(1) == [comparison.first]


def test_the_same_policy_twice_is_refused():
    scenario = load_scenario("geneva_small")
    pair = (make_policy("nearest", scenario), make_policy("nearest", scenario))
    with pytest.raises(UsageError, match="both policies are 'nearest'"):
        compare_day(seed_book(scenario, 0), pair)


def test_report_table_pictures_and_film_say_the_same(tmp_path, monkeypatch):
    comparison, book = compared(
        [booking(40, 2, 4, priority=1), booking(40, 1, 5, priority=4)],
        [driver(0), driver(5)],
        {0: [(0, 0)]},
        {0: [(0, 1)], 30: [(1, 0)]},
        epoch_min=30,
    )
    (tmp_path / "moment_9.png").write_bytes(b"of an earlier replay")
    monkeypatch.setattr(day_pictures, "_FILM_WIDTH", 480)
    files = write_replay(comparison, book, tmp_path, ORIGIN, moments=2, film=True)
    assert {f.name for f in tmp_path.iterdir()} == {f.name for f in files} == {
        "replay.md", "decisions.csv", "reward.png", "moment_1.png", "moment_2.png", "replay.gif",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((tmp_path / "decisions.csv").read_text())))
    assert sum(float(row["difference"]) for row in rows) == pytest.approx(
        comparison.difference(), abs=1e-3
    )
    text = (tmp_path / "replay.md").read_text()
    for parting, row in zip(comparison.partings, rows, strict=True):
        assert int(row["booking"]) == parting.booking
        assert row["reason"] == parting_reason(comparison, parting)
        assert row["reason"] in text
    assert f"{comparison.a.kpis['reward']:.1f}" in text
    with Image.open(tmp_path / "moment_1.png") as picture:
        assert picture.width > 2 * 960
    with Image.open(tmp_path / "replay.gif") as film:
        assert film.n_frames == 16
        # The two worlds look different where they differ.
        film.seek(1)
        both = np.asarray(film.convert("L"), dtype=float)
    left, right = both[60:160, :160], both[60:160, 241:401]
    assert np.abs(left - right).max() > 50


def test_a_film_too_large_shows_fewer_epochs(tmp_path, monkeypatch):
    comparison, book = kept_for_the_urgent()
    monkeypatch.setattr(day_pictures, "_FILM_WIDTH", 240)
    monkeypatch.setattr(day_pictures, "moment_frames", noise_of(96))
    monkeypatch.setattr(day_pictures, "FILM_MAX_BYTES", 900_000)
    path = tmp_path / "replay.gif"
    step = day_pictures.write_film(comparison, book, path)
    assert step > 1
    assert path.stat().st_size <= 900_000
    with Image.open(path) as film:
        assert film.n_frames == -(-96 // step)


def noise_of(count):
    random = np.random.default_rng(0)

    def frames(*_):
        for _ in range(count):
            yield Image.fromarray(random.integers(0, 255, (100, 240, 3), dtype=np.uint8))

    return frames


def test_reward_so_far_steps_at_its_events():
    comparison, _ = compared([booking(10, 1, 3)], [driver(0)], {0: [(0, 0)]}, {})
    day = comparison.a
    pickup, done = (float(day.history[name][0]) for name in ("pickup_min", "done_min"))
    assert day_pictures.reward_at(day, pickup - 0.1) == 0.0
    assert day_pictures.reward_at(day, pickup) == pytest.approx(-0.5, rel=1e-4)
    assert day_pictures.reward_at(day, done) == pytest.approx(day.kpis["reward"])
    # Promised at 10, window 30, grace 15: lost at the first epoch after 55.
    assert day_pictures.reward_at(comparison.b, 54.0) == 0.0
    assert day_pictures.reward_at(comparison.b, 60.0) < 0.0
