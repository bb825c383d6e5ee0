"""Checks before training: the mistakes that cost days when they are found afterwards.

Each raises `SanityCheckError` (a RuntimeError) with what was found and what to do about it.
"""

from typing import Any

import numpy as np
import torch

from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.types import IntArray

from .config import TrainingConfig
from .streams import EngineStream, Stream
from .task import DispatchTask, Task

_FEWEST_EPOCHS = 12


class SanityCheckError(RuntimeError):
    """A check failed; the sentence says what was found and the remedy."""


def run_sanity_checks(task: Task, config: TrainingConfig) -> list[str]:
    """Run all checks that concern the task; returns one line per finding, all good.

    For a foreign environment those about demand do not apply, and a constant reward only warns.

    Raises:
        SanityCheckError: With the finding and its remedy.
    """
    checks = config.sanity
    lines = [check_device(config)]
    stream = task.stream(config.changed(hyperparameters={"num_envs": 1}))
    if isinstance(task, DispatchTask) and isinstance(stream, EngineStream):
        if checks.check_action_mapping:
            lines.append(check_action_mapping(stream, config))
        if checks.check_control_interval:
            lines.append(check_control_interval(task))
        if checks.check_flux_config:
            lines.append(check_flux(task, config))
    lines.append(check_random_play(stream, config, foreign=not isinstance(task, DispatchTask)))
    return lines


def check_device(config: TrainingConfig) -> str:
    """A tensor on the configured device can be written, multiplied and read back."""
    try:
        ones = torch.ones((4, 4), device=config.device)
        total = float((ones @ ones).sum().cpu())
    except (RuntimeError, AssertionError) as error:
        raise SanityCheckError(
            f"device {config.device!r} cannot compute ({error}); use --device cpu"
        ) from error
    if total != 64.0:
        raise SanityCheckError(f"device {config.device!r} computes wrongly; use --device cpu")
    return f"device {config.device} computes"


def check_action_mapping(stream: EngineStream, config: TrainingConfig) -> str:
    """Every action is exactly one pair: carried out, it commits that booking to that driver.

    Action ``1 + d * M + b`` must commit the b-th booking shown to driver d, and no pair may lie
    outside the action space.
    """
    engine = stream.engine
    shown, drivers = engine.layout.max_bookings, engine.layout.num_drivers
    if stream.num_actions != 1 + drivers * shown:
        raise SanityCheckError(
            f"{stream.num_actions} actions for {drivers} drivers and {shown} bookings: actions "
            f"are truncated or mean no pair; there must be {1 + drivers * shown}, drivers * "
            "max_bookings + 1"
        )
    rng = np.random.default_rng([config.seed, 5])
    _, mask = stream.reset()
    tried = 0
    for _ in range(config.sanity.num_steps):
        pairs = np.flatnonzero(mask[0, 1:])
        action = 1 + int(rng.choice(pairs)) if pairs.size else 0
        driver, slot = divmod(action - 1, shown)
        row = int(engine.open_rows(0)[slot]) if action else -1
        mask = stream.step(np.array([action], dtype=np.int64)).mask
        if action == 0:
            continue
        tried += 1
        found = int(engine.world.booking_ints[0, row, world.DRIVER])
        if found != driver:
            happened = "was not committed" if found < 0 else f"went to driver {found}"
            raise SanityCheckError(
                f"action {action} means booking {slot} to driver {driver}, but that booking "
                f"{happened}; the mapping must be 1 + driver * max_bookings + booking"
            )
    return f"{stream.num_actions} actions are pairs; {tried} of them did what they mean"


def check_control_interval(task: DispatchTask) -> str:
    """Decisions come often enough to matter."""
    rules = task.scenario.rules
    epochs = task.scenario.num_epochs
    if epochs < _FEWEST_EPOCHS:
        raise SanityCheckError(
            f"a day of {task.name!r} has {epochs} decision epochs of {rules.epoch_min:g} minutes: "
            f"too few to learn from; set rules.epoch_min to 5 (at least {_FEWEST_EPOCHS} epochs)"
        )
    if rules.epoch_min > 2.0 * rules.grace_min:
        raise SanityCheckError(
            f"an epoch of {rules.epoch_min:g} minutes outlasts the grace of {rules.grace_min:g} "
            "minutes twice over: bookings are lost between decisions; set rules.epoch_min to 5"
        )
    return f"{epochs} decision epochs of {rules.epoch_min:g} minutes"


def check_flux(task: DispatchTask, config: TrainingConfig) -> str:
    """Demand outweighs what is due when the day begins, and queues form where nobody serves."""
    days = 8
    engine = task.stream(config.changed(hyperparameters={"num_envs": days})).engine
    engine.start([engine.next_training_day(e) for e in range(days)])
    total = float(np.mean(engine.world.counters[:, world.NUM_BOOKINGS]))
    # Pre-booked transports are known at the start, but need no decision yet.
    due = float(np.mean([_due(engine, e, 60.0) for e in range(days)]))
    most = 0
    waits = np.zeros(days, dtype=np.int64)
    for _ in range(task.scenario.num_epochs):
        engine.step(waits)
        most = max(most, max(_due(engine, e, 0.0) for e in range(days)))
    if total < 2.0 * max(due, 1.0):
        raise SanityCheckError(
            f"a day brings {total:.0f} bookings, {due:.0f} of them due in its first hour: too "
            "little flows in for decisions to matter; raise demand.bookings_per_day"
        )
    if most < config.sanity.min_max_queue:
        raise SanityCheckError(
            f"at most {most} bookings were due at once with nobody serving, "
            f"{config.sanity.min_max_queue} expected: no queue forms, any policy looks perfect; "
            "raise demand.bookings_per_day"
        )
    return (
        f"{total:.0f} bookings a day, {due:.0f} due in the first hour, up to {most} due at once "
        "with nobody serving"
    )


def _due(engine: Engine, e: int, ahead_min: float) -> int:
    """Open bookings promised by now, or within so many minutes."""
    promised = engine.world.bookings[e, engine.open_rows(e), world.PROMISED]
    return int((promised <= engine.now_min(e) + ahead_min).sum())


def check_random_play(stream: Stream, config: TrainingConfig, *, foreign: bool) -> str:
    """Random valid actions: finite numbers, masks kept, rewards that differ."""
    checks = config.sanity
    rng = np.random.default_rng([config.seed, 4])
    state, mask = stream.reset()
    rewards: set[float] = set()
    for k in range(checks.num_steps):
        _check_mask(mask, k)
        _check_finite("observation", state, k)
        actions = _random_valid(mask, rng)
        before = _refused(stream)
        step = stream.step(actions)
        if _refused(stream) > before:
            raise SanityCheckError(
                f"step {k}: the environment refused action {int(actions[0])}, which its mask "
                "allows; the mask and the rules disagree"
            )
        _check_finite("reward", step.reward, k)
        rewards.update(np.round(step.reward, 9).tolist())
        state, mask = step.state, step.mask
    if len(rewards) < checks.min_unique_rewards:
        found = f"distinct rewards in {checks.num_steps} random steps: {len(rewards)}"
        if not foreign:
            raise SanityCheckError(
                f"{found}, at least {checks.min_unique_rewards} expected: there is nothing to "
                "learn from; check the scenario's reward weights and demand"
            )
        return f"warning: {found}; that is right only where the episode's length is the return"
    return f"{len(rewards)} distinct rewards in {checks.num_steps} random steps"


def _random_valid(mask: Any, rng: np.random.Generator) -> IntArray:
    return np.array([rng.choice(np.flatnonzero(row)) for row in mask], dtype=np.int64)


def _refused(stream: Stream) -> int:
    engine: Engine | None = getattr(stream, "engine", None)
    return 0 if engine is None else int(engine.world.counters[:, world.INVALID].sum())


def _check_mask(mask: Any, k: int) -> None:
    if not mask.any(axis=1).all():
        raise SanityCheckError(
            f"step {k}: the mask allows no action; WAIT (action 0) must always be valid"
        )


def _check_finite(name: str, values: Any, k: int) -> None:
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise SanityCheckError(
            f"step {k}: the {name} holds {wrong}; look for a division by zero or a missing value "
            "in the scenario"
        )
