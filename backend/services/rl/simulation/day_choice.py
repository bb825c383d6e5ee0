"""Which day comes next: a seed, a real day, or the next of an environment's stream.

A synthetic day *is* a seed. With real days a seed picks one of them (modulo their number), and a
day may also be asked for by its label, such as ``"2026-03-02"``.
"""

import operator
from typing import Any

import numpy as np

from services.rl.errors import UsageError

from .engine import Engine

_SEEDS = 2**63  # the engine counts in 64 bits


def whole_seed(value: Any) -> int:
    """The seed as an int.

    Raises:
        UsageError: If it is negative, too large, or no integer.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < _SEEDS:
        raise UsageError(f"seed must be a whole number from 0 to 2^63 - 1, got {value!r}")
    return number


def day_row_of_seed(engine: Engine, seed: Any) -> int:
    """The day that a seed stands for.

    Raises:
        UsageError: If it is no seed.
    """
    number = whole_seed(seed)
    return number % len(engine.days) if engine.days else number


def day_row(engine: Engine, day: Any) -> int:
    """The day that somebody asked for: a seed, or the row or label of a real day.

    Raises:
        UsageError: If there is no such day.
    """
    if not engine.days:
        return whole_seed(day)
    if isinstance(day, str):
        for row, known in enumerate(engine.days):
            if known.label == day:
                return row
        first, last = engine.days[0].label, engine.days[-1].label
        raise UsageError(f"no day is labelled {day!r}: they run from {first!r} to {last!r}")
    row = whole_seed(day)
    if row >= len(engine.days):
        raise UsageError(f"there is no day {row}: the given days are 0..{len(engine.days) - 1}")
    return row


def day_name(engine: Engine, row: int) -> int | str:
    """What ``info["day"]`` says: the seed, or the real day's label."""
    return engine.days[row].label if engine.days else row


def start_stream(
    engine: Engine, env: int, seed: int | None, random: np.random.Generator, started: bool
) -> None:
    """Start the stream of later days at a seed; without one, once, at a random place."""
    if seed is not None:
        engine.seed_episodes(env, whole_seed(seed))
    elif not started:
        engine.seed_episodes(env, int(random.integers(_SEEDS)))
