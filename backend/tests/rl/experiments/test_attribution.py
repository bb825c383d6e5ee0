"""Which block a booking's outcome belongs to."""

from datetime import UTC, datetime, timedelta

from services.rl.experiments.attribution import attributed_at, block_settles_at, burns_in

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)


def minutes(n):
    return timedelta(minutes=n)


def test_a_promise_made_ahead_counts_when_its_car_is_due():
    assert attributed_at(NINE, NINE - minutes(300)) == NINE - minutes(15)


def test_an_immediate_request_counts_when_it_is_made():
    assert attributed_at(NINE, NINE - minutes(5)) == NINE - minutes(5)
    assert attributed_at(NINE, NINE + minutes(2)) == NINE + minutes(2)


def test_the_first_quarter_of_an_hour_burns_in():
    assert burns_in(NINE, 60) and burns_in(NINE + minutes(14), 60)
    assert not burns_in(NINE + minutes(15), 60)
    assert burns_in(NINE + minutes(30), 30) and not burns_in(NINE + minutes(30), 60)
    assert not burns_in(NINE, 20)  # nothing would be left


def test_a_block_is_settled_when_its_last_promise_is_given_up():
    last = NINE + minutes(60) - timedelta(seconds=1)  # attributed to the block's last second
    given_up = last + minutes(15) + minutes(30)
    assert given_up < block_settles_at(NINE, 60, 30.0) <= given_up + timedelta(seconds=1)
