"""Settings of the backend, from environment variables that begin with ``ATMR_``.

Secrets (database password, session key) come from the environment only: there is no settings
file to leak, and no default that anyone else knows.
"""

from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.database_url import parse_url
from services.rl import paths
from services.rl.errors import UsageError

Share = Annotated[float, Field(ge=0, le=1)]


class Config(BaseSettings):
    """What can be set. ``Config.from_environment()`` turns a wrong value into one sentence.

    Attributes:
        database_url: SQLite or PostgreSQL; also read from ``DATABASE_URL``. Default: a SQLite
            file under ``ATMR_HOME``.
        secret_key: Signs dashboard sessions; at least 32 characters. None: no dashboard login.
        scenario: Name or YAML file of the scenario that gives travel, rules and weights.
        budget_ms: Time a learned policy has before the heuristic answers.
        timezone: Of shifts and operating days.
        redis_url: For rate limits shared by processes; None: each process counts for itself.
        rate_limit: Requests per API key (per address where there is none).
        max_request_bytes: Longer bodies are refused with 413.
        idempotency_hours: How long an answer is kept to be given again.
        trusted_proxies: Reverse proxies in front, whose X-Forwarded-For is believed.
        broker_url: Of Celery; None: ``redis_url``, else tasks run in one process (``make loop``).
        replay_url: Redis of the replay buffer; None: ``redis_url``, else the process's memory.
        replay_capacity: Experiences kept per company.
        replay_prefix: Of all keys of the replay buffer.
        collect_overlap_hours: Decisions of so many last hours are collected anew each time, for
            outcomes that come late or past our API.
        production_share: Of the experiences of a nightly update, those from production.
        train_minutes: Most that a nightly update of one kind of model may take.
        gate_days: Fresh days on which a candidate is judged; fewer pass fewer equals
            (``gate_power.py``).
        rollout: ``manual``: a candidate that passes the gate waits for a person; ``auto``: it is
            promoted, and rolled back by guardrail or verdict.
        purge_after_days: Decisions and snapshots older than this go; None: none.
        clock_file: A twin's clock instead of the machine's; never in production.
    """

    model_config = SettingsConfigDict(env_prefix="ATMR_", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(f"sqlite:///{paths.home() / 'data' / 'atmr.sqlite'}"),
        validation_alias=AliasChoices("ATMR_DATABASE_URL", "DATABASE_URL", "database_url"),
    )
    secret_key: SecretStr | None = None
    scenario: Annotated[str, StringConstraints(min_length=1)] = "geneva"
    budget_ms: float = Field(default=50.0, gt=0, le=10_000)
    device: Literal["cpu", "cuda"] = "cpu"
    timezone: str = "Europe/Zurich"
    redis_url: SecretStr | None = None
    rate_limit: str = "1200 per minute"
    max_request_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=1 << 30)
    idempotency_hours: float = Field(default=24.0, gt=0, le=24 * 365)
    trusted_proxies: int = Field(default=0, ge=0, le=5)
    broker_url: SecretStr | None = None
    replay_url: SecretStr | None = None
    replay_capacity: int = Field(default=100_000, ge=1, le=10_000_000)
    replay_prefix: str = Field(default="atmr:replay", pattern=r"^[A-Za-z0-9:_.-]{1,60}$")
    collect_overlap_hours: float = Field(default=48.0, gt=0, le=24 * 60)
    production_share: float = Field(default=0.25, ge=0, le=1)
    train_minutes: float = Field(default=20.0, gt=0, le=24 * 60)
    gate_days: int = Field(default=400, ge=20, le=100_000)
    rollout: Literal["manual", "auto"] = "manual"
    purge_after_days: int | None = Field(default=None, ge=7, le=36_500)
    clock_file: Path | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    database_timeout_s: float = Field(default=5.0, gt=0, le=60)

    @classmethod
    def from_environment(cls, **changes: object) -> Self:
        """Settings of the environment, with ``changes`` on top.

        Raises:
            UsageError: Naming the variable and what is wrong with it; a secret is never shown.
        """
        try:
            return cls(**changes)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = str(first["loc"][0]).upper() if first["loc"] else "setting"
            name = name if name.startswith(("ATMR_", "DATABASE_")) else f"ATMR_{name}"
            message = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"{name}: {message[:1].lower()}{message[1:]}") from None

    @field_validator("database_url")
    @classmethod
    def _a_database(cls, value: SecretStr) -> SecretStr:
        try:
            url = parse_url(value.get_secret_value())
        except UsageError as error:
            raise ValueError(str(error)) from None
        if url.get_backend_name() not in {"sqlite", "postgresql"}:
            raise ValueError(f"{url.get_backend_name()} is not tested; use sqlite or postgresql")
        if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
            raise ValueError("an in-memory SQLite database is not shared by threads; name a file")
        return SecretStr(url.render_as_string(hide_password=False))

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("needs at least 32 characters; make one with: openssl rand -hex 32")
        return value

    @field_validator("timezone")
    @classmethod
    def _a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone, such as Europe/Zurich") from None
        return value

    @field_validator("rate_limit")
    @classmethod
    def _a_limit(cls, value: str) -> str:
        from limits import parse_many

        try:
            parse_many(value)
        except ValueError:
            raise ValueError(f"{value!r} is no rate limit, such as '1200 per minute'") from None
        return value

    @field_validator("redis_url", "replay_url")
    @classmethod
    def _a_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(
            ("redis://", "rediss://", "unix://")
        ):
            raise ValueError("is no Redis URL, such as redis://localhost:6379/0")
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The zone of shifts and operating days."""
        return ZoneInfo(self.timezone)
