"""What an experiment is: arms, unit, split, exploration, guardrails; and where it is kept."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.rl.errors import AtmrError

HEURISTIC: Final = "heuristic"
RL: Final = "rl"
ARMS: Final = (HEURISTIC, RL)

DAY_MIN: Final = 1440
DEFAULT_ZONE_KM: Final = 25.0


class ExperimentError(AtmrError):
    """An experiment that is malformed, not configured, or asked for what it cannot do."""


class Mode(StrEnum):
    """What the experiment does."""

    OFF = "off"  # the heuristic alone
    SHADOW = "shadow"  # the heuristic acts, the learned policy is asked and logged
    AB = "ab"  # each unit has its arm


class UnitKind(StrEnum):
    """What is randomised; see `units.unit_of`."""

    BOOKING = "booking"
    COMPANY = "company"
    SWITCHBACK = "switchback"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Guardrails(_Model):
    """When the learned arm is stopped; `guardrails.GuardrailMonitor` says how it is judged.

    Attributes:
        false_alarm_per_week: Most probability of stopping, in a week, an arm that is no worse.
        fallback_rate: Share of decisions that the fallback answered, at most.
        infeasible_rate: Share of decisions that could not be carried out, at most.
        latency_limit_ms: A decision that takes longer is slow.
        slow_rate: Share of slow decisions, at most.
        late_margin: A late rate less than this above the other arm's never stops (a share).
        unserved_margin: The same for bookings left unserved.
        late_ceiling: Late rate of the learned arm, at most, whatever the other arm's; for
            experiments with nothing to compare (one company, all of it learned).
        unserved_ceiling: The same for bookings left unserved.
        block_min: Evidence is weighed at the end of each block of so many minutes.
        settle_min: Outcomes of a switchback unit are awaited so long after its block.
    """

    false_alarm_per_week: float = Field(default=0.01, gt=0, lt=1)
    fallback_rate: float = Field(default=0.05, gt=0, lt=1)
    infeasible_rate: float = Field(default=0.01, gt=0, lt=1)
    latency_limit_ms: float = Field(default=50.0, gt=0)
    slow_rate: float = Field(default=0.05, gt=0, lt=1)
    late_margin: float = Field(default=0.02, ge=0, lt=1)
    unserved_margin: float = Field(default=0.01, ge=0, lt=1)
    late_ceiling: float | None = Field(default=None, gt=0, lt=1)
    unserved_ceiling: float | None = Field(default=None, gt=0, lt=1)
    block_min: int = Field(default=15, ge=1, le=DAY_MIN)
    settle_min: int = Field(default=60, ge=0, le=DAY_MIN)


class ExperimentConfig(_Model):
    """One experiment.

    Attributes:
        name: Of the experiment; part of every unit's hash.
        company_id: Whose bookings; None: those of all companies.
        mode: ``off``, ``shadow`` or ``ab``.
        unit: What is randomised.
        salt: Part of every hash; changing it draws all units anew.
        rl_share: Probability that a *new* unit goes to the learned arm; known units keep theirs.
        block_min: Length of a switchback block; divides the day, so that blocks start at the
            same times every day. An hour or more: `attribution` says why.
        zone_km: Width of a switchback zone where the scenario has none.
        epsilon: Exploration per booking, both arms alike; 0: none.
        guardrails: When the learned arm is stopped.
        webhook_url: Who is told of a breach.
        stopped_at: Since when the learned arm gets nothing; None: it runs.
        stop_reason: In words.
        version: For optimistic locking.
    """

    name: str = Field(default="default", pattern=r"^[A-Za-z0-9_.-]{1,80}$")
    company_id: int | None = None
    mode: Mode = Mode.OFF
    unit: UnitKind = UnitKind.SWITCHBACK
    salt: str = Field(default="atmr", min_length=1, max_length=80)
    rl_share: float = Field(default=0.5, ge=0, le=1)
    block_min: int = Field(default=60, ge=1, le=DAY_MIN)
    zone_km: float = Field(default=DEFAULT_ZONE_KM, gt=0, le=1000)
    epsilon: float = Field(default=0.0, ge=0, le=1)
    guardrails: Guardrails = Guardrails()
    webhook_url: str | None = None
    stopped_at: AwareDatetime | None = None
    stop_reason: str | None = None
    version: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "ExperimentConfig":
        if DAY_MIN % self.block_min:
            raise ValueError(f"block_min {self.block_min} does not divide the day's {DAY_MIN} min")
        if (self.stopped_at is None) != (self.stop_reason is None):
            raise ValueError("stopped_at and stop_reason are given together")
        return self

    @property
    def stopped(self) -> bool:
        """Whether a guardrail, or a person, has stopped the learned arm."""
        return self.stopped_at is not None

    @property
    def asks_rl(self) -> bool:
        """Whether the learned policy is asked at all."""
        return self.mode != Mode.OFF and not self.stopped

    def changed(self, **fields: Any) -> "ExperimentConfig":
        """The same with other fields, checked; its version is one higher.

        Raises:
            ExperimentError: Naming the field that is wrong.
        """
        return parse_experiment({**self.model_dump(), "version": self.version + 1, **fields})


def parse_experiment(raw: Mapping[str, Any]) -> ExperimentConfig:
    """An experiment from plain values (a request's JSON, a database row).

    Raises:
        ExperimentError: Naming the first field that is wrong.
    """
    try:
        return ExperimentConfig.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "experiment"
        raise ExperimentError(f"experiment: {where}: {first['msg']}") from error


class Clock(Protocol):
    """Where all time comes from; the backend's clock is one."""

    def now(self) -> datetime:
        """The time, with its zone."""
        ...


class ExperimentStore(Protocol):
    """Where the experiment's present settings are kept: every process sees a stop at once."""

    def current(self) -> ExperimentConfig:
        """The settings now; called at every decision."""
        ...

    def stop(self, reason: str, at: datetime) -> ExperimentConfig:
        """Stop the learned arm; the first reason stands if it is stopped already."""
        ...

    def resume(self, who: str, why: str, at: datetime) -> ExperimentConfig:
        """Let the learned arm run again, by a person's decision."""
        ...


class MemoryExperiment:
    """An experiment kept in this process.

    Attributes:
        events: (time, kind, who, why) of every stop and resumption.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self.events: list[tuple[datetime, str, str, str]] = []

    def current(self) -> ExperimentConfig:
        """The settings now."""
        return self._config

    def replace(self, config: ExperimentConfig) -> None:
        """Put other settings in place (a new split, another mode)."""
        with self._lock:
            self._config = config

    def stop(self, reason: str, at: datetime) -> ExperimentConfig:
        """Stop the learned arm; the first reason stands."""
        with self._lock:
            if not self._config.stopped:
                self._config = self._config.changed(stopped_at=at, stop_reason=reason)
                self.events.append((at, "stopped", "guardrail", reason))
            return self._config

    def resume(self, who: str, why: str, at: datetime) -> ExperimentConfig:
        """Let the learned arm run again.

        Raises:
            ExperimentError: If nobody, or no reason, is named.
        """
        check_person(who, why)
        with self._lock:
            if self._config.stopped:
                self._config = self._config.changed(stopped_at=None, stop_reason=None)
                self.events.append((at, "resumed", who, why))
            return self._config


def check_person(who: str, why: str) -> None:
    """A stopped experiment waits for a person, with a reason.

    Raises:
        ExperimentError: If either is empty.
    """
    if not who.strip() or not why.strip():
        raise ExperimentError("a stopped experiment is resumed by a person, with a reason")


def aware(at: datetime) -> datetime:
    """The time in UTC.

    Raises:
        ExperimentError: If it has no zone.
    """
    if at.tzinfo is None:
        raise ExperimentError(f"time {at.isoformat()} has no time zone")
    return at.astimezone(UTC)


def block_start(at: datetime, block_min: int) -> datetime:
    """Start of the block that a time falls into; blocks are aligned to midnight UTC.

    A time on a boundary belongs to the block that begins there.
    """
    utc = aware(at)
    midnight = utc.replace(hour=0, minute=0, second=0, microsecond=0)
    blocks = (utc - midnight) // timedelta(minutes=block_min)
    return midnight + blocks * timedelta(minutes=block_min)
