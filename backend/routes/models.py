"""Models: which versions there are, who uses which, promotion and rollback.

The registry is behind a Protocol: files alone, or files and database.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from pydantic import Field

from access import Caller
from extensions import services

from .operation import ApiBlueprint
from .problems import Problem, not_found
from .schema import Answer, Body, Instant, Slug

models = ApiBlueprint("models", tag="Models")

Alias = Literal["champion", "candidate", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "candidate", "previous")


class VersionInfo(Protocol):
    """What a registry tells of one version."""

    @property
    def version(self) -> str:
        """Hash of its content."""

    @property
    def kind(self) -> str:
        """Such as ``planner``."""

    @property
    def scenario(self) -> str:
        """Name of the scenario it was made for."""

    @property
    def scenario_hash(self) -> str:
        """Its hash."""

    @property
    def parent(self) -> str | None:
        """The version it was trained from."""

    @property
    def metrics(self) -> Any:
        """Measured at training."""


class EventInfo(Protocol):
    """One move of an alias."""

    @property
    def at(self) -> datetime:
        """When."""

    @property
    def who(self) -> str:
        """By whom."""

    @property
    def why(self) -> str:
        """Why."""

    @property
    def alias(self) -> str:
        """Which alias."""

    @property
    def from_version(self) -> str | None:
        """What it was."""

    @property
    def to_version(self) -> str | None:
        """What it is since."""


class ModelRegistry(Protocol):
    """What these routes need of a registry; see `services.rl.serving.registry`."""

    def versions(self) -> Sequence[VersionInfo]:
        """All versions."""

    def alias(self, company: int | None, name: Alias) -> str | None:
        """The version an alias means for a company, or by default."""

    def promote(
        self,
        version: str,
        who: str,
        why: str,
        company: int | None = None,
        gate_report: str | None = None,
    ) -> None:
        """Make a version the champion."""

    def rollback(self, who: str, why: str, company: int | None = None) -> None:
        """Make the previous champion the champion again."""

    def history(self, company: int | None = None) -> Sequence[EventInfo]:
        """Moves of a company's aliases."""


class ModelOut(Answer):
    """One version."""

    version: str
    kind: str
    scenario: str
    scenario_hash: str
    parent: str | None
    metrics: dict[str, Any]
    aliases: list[Alias] = Field(description="what it is for this company")


class ModelEventOut(Answer):
    """One move of an alias."""

    at: Instant
    who: str
    why: str
    alias: str
    from_version: str | None
    to_version: str | None


class ModelsOut(Answer):
    """All versions, and the latest hundred moves of this company, newest first."""

    models: list[ModelOut]
    history: list[ModelEventOut]


class PromoteIn(Body):
    """Why, and from which gate report."""

    why: Slug
    gate_report: Slug | None = None


class RollbackIn(Body):
    """Why."""

    why: Slug


@models.operation("GET", "/models", scope="read", answer=ModelsOut)
def list_models(caller: Caller) -> ModelsOut:
    """List model versions and what they are for this company."""
    registry = _registry()
    meant = {name: _meaning(registry, caller, name) for name in ALIASES}
    moves = sorted(registry.history(caller.company_id), key=lambda event: event.at)
    moves.reverse()  # also those of one moment
    return ModelsOut(
        models=[
            ModelOut(
                version=info.version,
                kind=info.kind,
                scenario=info.scenario,
                scenario_hash=info.scenario_hash,
                parent=info.parent,
                metrics=dict(info.metrics),
                aliases=[name for name in ALIASES if meant[name] == info.version],
            )
            for info in registry.versions()
        ],
        history=[ModelEventOut.model_validate(event) for event in moves[:100]],
    )


@models.operation("POST", "/models/<code:version>/promote", scope="admin", body=PromoteIn,
                  answer=ModelsOut, problems=(404,))  # fmt: skip
def promote_model(caller: Caller, version: str, body: PromoteIn) -> ModelsOut:
    """Make a version this company's champion; the champion becomes the previous one."""
    registry = _registry()
    _check_version(registry, version)
    if registry.alias(caller.company_id, "champion") != version:
        registry.promote(
            version,
            who=caller.name,
            why=body.why,
            company=caller.company_id,
            gate_report=body.gate_report,
        )
    return list_models(caller)


@models.operation("POST", "/models/<code:version>/rollback", scope="admin", body=RollbackIn,
                  answer=ModelsOut, problems=(404, 409))  # fmt: skip
def roll_model_back(caller: Caller, version: str, body: RollbackIn) -> ModelsOut:
    """Take this version back: the company's previous champion is champion again.

    The version in the address must be the champion, so that a second click changes nothing (409).
    """
    registry = _registry()
    _check_version(registry, version)
    if _meaning(registry, caller, "champion") != version:
        raise Problem(409, "this version is not the champion", field="path.version")
    if _meaning(registry, caller, "previous") is None:
        raise Problem(409, "there is no previous champion", field="path.version")
    registry.rollback(who=caller.name, why=body.why, company=caller.company_id)
    return list_models(caller)


def _registry() -> ModelRegistry:
    registry = services().registry
    if registry is None:
        raise Problem(404, "this server has no model registry")
    return registry


def _meaning(registry: ModelRegistry, caller: Caller, name: Alias) -> str | None:
    return registry.alias(caller.company_id, name) or registry.alias(None, name)


def _check_version(registry: ModelRegistry, version: str) -> None:
    if all(info.version != version for info in registry.versions()):
        raise not_found("model version", "path.version")
