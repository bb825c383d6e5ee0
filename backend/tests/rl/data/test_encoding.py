"""What a learner gets from experiences is what it got in the simulator."""

from dataclasses import replace

import numpy as np
import pytest

from services.rl.data.encoding import ExperienceEncoder
from services.rl.data.experience import Ending, Experience, RewardTerms, Rows
from services.rl.data.experience_codec import decode, encode
from services.rl.data.learning_reward import reward_of
from services.rl.simulation.observation import ObservationKind
from services.rl.simulation.reward import RewardTiming
from services.rl.simulation.scenarios import Scenario, load_scenario

from .played_experiences import Played, play

GAMMA = 0.98


@pytest.fixture(scope="module")
def geneva() -> Scenario:
    return load_scenario("geneva")


@pytest.fixture(scope="module")
def small() -> Scenario:
    return load_scenario("geneva_small")


@pytest.fixture(scope="module")
def day(geneva: Scenario) -> Played:
    return play(geneva, gamma=GAMMA)


def _check(played: Played, encoder: ExperienceEncoder) -> None:
    got = encoder.encode(played.experiences)
    assert got.skipped == {}
    assert len(got) == len(played.steps) > 50
    np.testing.assert_array_equal(got.state, played.state)
    np.testing.assert_array_equal(got.mask, played.mask)
    np.testing.assert_array_equal(got.action, played.action)
    np.testing.assert_array_equal(got.dt, [s.dt[0] for s in played.steps])
    np.testing.assert_array_equal(got.done, [s.terminated[0] for s in played.steps])
    np.testing.assert_array_equal(got.next_mask, [s.next_mask[0] for s in played.steps])
    # What comes after the end does not count, and is not stored.
    for k in np.flatnonzero(~got.done):
        np.testing.assert_array_equal(got.next_state[k], played.steps[k].next_state[0])


@pytest.mark.parametrize("observation", ["rows", "full", "compact"])
@pytest.mark.parametrize("name", ["geneva", "geneva_overload"])
def test_arrays_are_those_of_the_trainers_stream(name: str, observation: ObservationKind) -> None:
    scenario = load_scenario(name)
    played = play(scenario, observation=observation, max_bookings=12, seed=5)
    _check(played, ExperienceEncoder(scenario, observation=observation, max_bookings=12))


def test_order_of_experiences_does_not_matter(geneva: Scenario, day: Played) -> None:
    order = np.random.default_rng(0).permutation(len(day.experiences))
    encoder = ExperienceEncoder(geneva)
    straight = encoder.encode(day.experiences)
    mixed = encoder.encode([day.experiences[k] for k in order])
    np.testing.assert_array_equal(mixed.state, straight.state[order])
    np.testing.assert_array_equal(mixed.next_state, straight.next_state[order])
    np.testing.assert_array_equal(mixed.next_mask, straight.next_mask[order])


@pytest.mark.parametrize("observation", ["rows", "full", "compact"])
def test_through_the_codec_only_rounding_is_lost(
    geneva: Scenario, observation: ObservationKind
) -> None:
    played = play(geneva, observation=observation, seed=7)
    encoder = ExperienceEncoder(geneva, observation=observation)
    read = encoder.encode([decode(encode(e)) for e in played.experiences])
    straight = encoder.encode(played.experiences)
    # A pair on the very edge of what is feasible may fall to its other side.
    assert len(read) >= 0.99 * len(straight)
    same = straight.state[read.rows]
    off = (straight.mask[read.rows] != read.mask).mean()
    assert off < 1e-4
    if observation == "full":  # a pair's features stand only where it is valid
        agree = (straight.mask[read.rows] == read.mask).all(axis=1)
        same, got = same[agree], read.state[agree]
    else:
        got = read.state
    np.testing.assert_allclose(got, same, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(read.action, straight.action[read.rows])


@pytest.mark.parametrize("timing", ["planned_pickup", "planned_gain"])
@pytest.mark.parametrize("coded", [False, True])
def test_planned_rewards_are_the_simulators_step_by_step(timing: str, coded: bool) -> None:
    scenario = load_scenario("geneva_overload")
    played = play(scenario, timing=timing, gamma=GAMMA, seed=3)  # type: ignore[arg-type]
    experiences = played.experiences
    if coded:
        experiences = [decode(encode(e)) for e in experiences]
    got = [_reward(e, scenario, RewardTiming[timing.upper()]) for e in experiences]
    expected = [float(s.reward[0]) for s in played.steps]
    lost = [e for e in experiences if e.terms.cancellation]
    assert len(lost) > 3 and max(expected) > 5  # both kinds of reward are there to be compared
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 if coded else 1e-9)


@pytest.mark.parametrize("timing", [RewardTiming.EVENT, RewardTiming.COMMITMENT])
def test_undiscounted_rewards_add_up_to_the_days_kpi(timing: RewardTiming) -> None:
    scenario = load_scenario("geneva_overload")
    played = play(scenario, seed=4)
    got = sum(_reward(e, scenario, timing) for e in played.experiences)
    assert got == pytest.approx(played.kpi_total, abs=1e-6)
    through = sum(_reward(decode(encode(e)), scenario, timing) for e in played.experiences)
    assert through == pytest.approx(played.kpi_total, rel=1e-5)


def _reward(experience: Experience, scenario: Scenario, timing: RewardTiming) -> float:
    return reward_of(experience, scenario.reward, timing, GAMMA, scenario.rules.epoch_min)


def test_gain_of_a_decision_that_came_to_nothing(geneva: Scenario, day: Played) -> None:
    served = next(e for e in day.experiences if e.action is not None)
    driven = RewardTerms(deadhead=-2.0)
    missed = replace(served, terms=driven, ending=Ending.NO_SHOW, pickup_in_min=None)
    missed = replace(missed, planned_pickup_in_min=None)
    gain = RewardTiming.PLANNED_GAIN
    assert _reward(missed, geneva, gain) == pytest.approx(missed.loss - 2.0)
    nobody_came = RewardTerms(deadhead=-2.0, cancellation=-served.loss)
    unserved = replace(missed, terms=nobody_came, ending=Ending.UNSERVED)
    assert _reward(unserved, geneva, gain) == pytest.approx(-2.0)
    withdrawn = replace(missed, ending=Ending.WITHDRAWN)
    assert _reward(withdrawn, geneva, gain) == pytest.approx(-2.0)
    later = replace(withdrawn, planned_pickup_in_min=50.0)
    epochs = 50.0 / geneva.rules.epoch_min
    assert _reward(later, geneva, gain) == pytest.approx(-2.0 * GAMMA**epochs)


def test_a_booking_that_is_not_shown_is_counted_and_left_out(geneva: Scenario) -> None:
    played = play(geneva, max_bookings=40, seed=2)
    got = ExperienceEncoder(geneva, max_bookings=2).encode(played.experiences)
    assert got.skipped.keys() == {"not_shown"}
    assert len(got) + got.skipped["not_shown"] == len(played.experiences)
    assert (got.mask[np.arange(len(got)), got.action]).all()


def test_what_the_rules_do_not_admit_is_counted_and_left_out(geneva: Scenario, day: Played) -> None:
    assigned = next(e for e in day.experiences if e.action is not None and e.prior)
    full = assigned.state.drivers.copy()
    full["committed"] = 1 + geneva.rules.queue
    nowhere = assigned.state.bookings.copy()
    nowhere["pickup_lat"] = 95.0
    crowd = np.concatenate([assigned.state.drivers, assigned.state.drivers])
    now, drivers, bookings = (
        assigned.state.now_min,
        assigned.state.drivers,
        assigned.state.bookings,
    )
    given = [
        assigned,
        replace(assigned, state=Rows(now, full, bookings)),
        replace(assigned, state=Rows(now, drivers, nowhere)),
        replace(assigned, state=Rows(now, crowd, bookings)),
        replace(assigned, state=Rows(now, drivers[:0], bookings), prior=()),
        replace(assigned, scenario_hash="0" * 64),
        replace(assigned, id="again"),
    ]
    got = ExperienceEncoder(geneva).encode(given)
    assert got.rows.tolist() == [0, 6]
    assert got.skipped == {"infeasible": 1, "state": 1, "fleet": 2, "scenario": 1}
    np.testing.assert_array_equal(got.state[0], got.state[1])


def test_a_smaller_fleet_is_filled_up_with_drivers_who_have_no_shift(
    geneva: Scenario, small: Scenario
) -> None:
    played = play(small, seed=2)
    wide = ExperienceEncoder(small, num_drivers=5).encode(played.experiences)
    exact = ExperienceEncoder(small).encode(played.experiences)
    assert wide.skipped == exact.skipped == {}
    shown = ExperienceEncoder(small, num_drivers=5).layout.unpack(wide.state)
    assert not shown["drivers"][:, 3:, -2].any()  # "present"
    m = exact.mask.shape[1] // 3
    np.testing.assert_array_equal(wide.mask[:, : 1 + 3 * m], exact.mask)
    assert not wide.mask[:, 1 + 3 * m :].any()
    np.testing.assert_array_equal(wide.action, exact.action)


def test_nothing_to_encode_gives_empty_arrays(geneva: Scenario) -> None:
    got = ExperienceEncoder(geneva).encode([])
    assert len(got) == 0
    assert got.state.shape == (0, ExperienceEncoder(geneva).layout.size)
