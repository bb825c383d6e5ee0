"""For the machines that watch the service: alive, ready, metrics."""

from flask import Response
from pydantic import Field

from extensions import services
from services.rl.errors import AtmrError

from .operation import ApiBlueprint, Reply
from .schema import Answer

health = ApiBlueprint("health", tag="Health")


class Alive(Answer):
    """The process answers."""

    status: str


class Ready(Answer):
    """Whether requests can be served; ``problems`` by check."""

    ready: bool
    checks: list[str]
    problems: dict[str, str] = Field(description="what keeps it from being ready")
    degraded: dict[str, str] = Field(
        description="what something lesser stands in for, in the process that answers: a model "
        "that cannot be loaded (the heuristic decides)"
    )


@health.operation("GET", "/healthz", scope=None, answer=Alive)
def healthz() -> Alive:
    """Alive: the process answers (restart it if not)."""
    return Alive(status="ok")


@health.operation("GET", "/readyz", scope=None, answer=Ready, problems=(503,))
def readyz() -> Reply:
    """Ready: database reachable and migrated, engine warm (send no requests if not)."""
    problems = {}
    for name, check in services().readiness.items():
        try:
            check()
        except AtmrError as error:
            problems[name] = str(error)
    degraded = {name: told for name, tell in services().degraded.items() if (told := tell())}
    answer = Ready(
        ready=not problems,
        checks=list(services().readiness),
        problems=problems,
        degraded=degraded,
    )
    return Reply(answer, 503 if problems else 200)


@health.operation("GET", "/metrics", scope=None, answer=None)
def metrics() -> Response:
    """Metrics in Prometheus' text format."""
    text, content_type = services().metrics.exposition()
    return Response(text, content_type=content_type)
