"""Models: which versions there are, who uses which, promotion and rollback."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from access import Caller
from extensions import services
from services.rl.errors import AtmrError
from services.rl.serving.registry import ALIASES, Alias, Registry

from .operation import ApiBlueprint
from .problems import Problem, not_found
from .schema import Answer, Body, Instant, Slug

_LOG = logging.getLogger("atmr.models")

models = ApiBlueprint("models", tag="Models")


class ModelOut(Answer):
    """One version; a damaged one shows nothing but that."""

    version: str
    damaged: bool
    kind: str | None
    scenario: str | None
    scenario_hash: str | None
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
    """All versions, and the latest hundred moves that concern this company, newest first."""

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
    meant = {name: registry.alias(caller.company_id, name) for name in ALIASES}
    moves = registry.history(caller.company_id)[-100:]
    return ModelsOut(
        models=[
            _shown(registry, version, [name for name in ALIASES if meant[name] == version])
            for version in registry.versions()
        ],
        history=[ModelEventOut.model_validate(event) for event in reversed(moves)],
    )


@models.operation("POST", "/models/<code:version>/promote", scope="admin", body=PromoteIn,
                  answer=ModelsOut, problems=(404, 409))  # fmt: skip
def promote_model(caller: Caller, version: str, body: PromoteIn) -> ModelsOut:
    """Make a version this company's champion; the champion becomes the previous one."""
    registry = _registry()
    _check_version(registry, version)
    if registry.alias(caller.company_id, "champion") != version:
        with _refusals_told():
            world = registry.get(version).manifest.scenario_hash
        if world != services().scenario.sha256:
            raise Problem(
                409, "this version is for another scenario than is dispatched here",
                field="path.version",
            )  # fmt: skip
        with _refusals_told():
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
    if registry.alias(caller.company_id, "champion") != version:
        raise Problem(409, "this version is not the champion", field="path.version")
    if registry.alias(caller.company_id, "previous") is None:
        raise Problem(409, "there is no previous champion", field="path.version")
    with _refusals_told():
        registry.rollback(
            who=caller.name, why=body.why, company=caller.company_id, champion=version
        )
    return list_models(caller)


def _registry() -> Registry:
    registry = services().registry
    if registry is None:
        raise Problem(404, "this server has no model registry")
    return registry


def _check_version(registry: Registry, version: str) -> None:
    if version not in registry.versions():
        raise not_found("model version", "path.version")


def _shown(registry: Registry, version: str, aliases: list[Alias]) -> ModelOut:
    try:
        told = registry.get(version).manifest
    except AtmrError as error:
        _LOG.warning("a model is damaged", extra={"version": version, "reason": str(error)})
        return ModelOut(
            version=version, damaged=True, kind=None, scenario=None, scenario_hash=None,
            parent=None, metrics={}, aliases=aliases,
        )  # fmt: skip
    return ModelOut(
        version=version,
        damaged=False,
        kind=told.kind,
        scenario=told.scenario,
        scenario_hash=told.scenario_hash,
        parent=told.parent,
        metrics=dict(told.metrics),
        aliases=aliases,
    )


@contextmanager
def _refusals_told() -> Iterator[None]:
    """The registry's reason names folders of this machine: it goes to the log."""
    try:
        yield
    except AtmrError as error:
        _LOG.warning("the registry refuses", extra={"reason": str(error)})
        raise Problem(
            409, "the registry refuses: the version is damaged, or another request was faster",
            field="path.version",
        ) from error  # fmt: skip
