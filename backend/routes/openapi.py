"""The API's description (OpenAPI 3.1), made from the operations themselves, and a page to read it.

The page is plain HTML: it works without internet and under the strictest content policy.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify, render_template, request, url_for
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .idempotency import HEADER, PATTERN
from .operation import ApiBlueprint, Operation
from .problems import CONTENT_TYPE, ProblemDocument, problem_schema
from .schema import MAX_ID

_TEMPLATE = "#/components/schemas/{model}"
# What rules' converters take; see `app`.
_PATH_TYPES: dict[str, dict[str, Any]] = {
    "id": {"type": "integer", "minimum": 1, "maximum": MAX_ID},
    "code": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"},
    "string": {"type": "string", "minLength": 1},
}
_HEADERS: dict[str, dict[str, Any]] = {
    HEADER: {"type": "string", "pattern": PATTERN},
    "If-Match": {"type": "string", "pattern": r'^"[0-9]{1,9}"$'},
}
_SAID = {
    400: "The body is no JSON",
    401: "No valid API key",
    403: "The key lacks the scope",
    404: "Not there, or another company's",
    409: "Conflicts with the present state",
    412: "Changed by somebody else since it was read",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "A field is wrong; errors names it",
    428: "If-Match is missing",
    429: "Too many requests",
    503: "Not available now; try again",
}


def describe(blueprints: Iterable[ApiBlueprint], prefixes: dict[str, str]) -> dict[str, Any]:
    """The OpenAPI description of the operations of ``blueprints``.

    Args:
        blueprints: Whose operations to describe.
        prefixes: Path prefix of each blueprint, by name.
    """
    told = [(prefixes[bp.name] + op.rule, op) for bp in blueprints for op in bp.operations]
    paths: dict[str, Any] = {}
    for rule, operation in told:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(rule, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ATMR dispatch",
            "version": "1",
            "description": "Who takes which patient transport. Times are ISO 8601 with offset, "
            "coordinates WGS-84 degrees. Errors are problem documents (RFC 9457).",
        },
        "tags": [{"name": name} for name in dict.fromkeys(op.tag for _, op in told)],
        "paths": paths,
        "components": {
            "schemas": _schemas([op for _, op in told]),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(operations: list[Operation]) -> dict[str, Any]:
    inputs = {op.body for op in operations if op.body is not None}
    outputs = {op.answer for op in operations if op.answer is not None} | {ProblemDocument}
    wanted: list[tuple[type[BaseModel], Any]] = [(m, "validation") for m in inputs]
    wanted += [(m, "serialization") for m in outputs]
    wanted.sort(key=lambda pair: pair[0].__name__)
    _, schema = models_json_schema(wanted, ref_template=_TEMPLATE)
    definitions: dict[str, Any] = schema.get("$defs", {})
    return definitions


def _operation(rule: str, operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(rule, operation),
        "responses": _responses(operation),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.scope is not None:
        described["security"] = [{"key": []}]
        described["x-scope"] = operation.scope
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    return described


def _parameters(rule: str, operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_TYPES[kind or "string"]}
        for kind, name in re.findall(r"<(?:(\w+):)?(\w+)>", rule)
    ]
    if operation.query is not None:
        schema = operation.query.model_json_schema(ref_template=_TEMPLATE)
        required = schema.get("required", [])
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": _not_null(field)}
            for name, field in schema["properties"].items()
        ]
    headers = [*operation.request_headers, *([HEADER] if operation.idempotent else [])]
    found += [
        {"name": name, "in": "header", "required": False, "schema": _HEADERS[name]}
        for name in headers
    ]
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done"}
    if operation.answer is not None:
        schema = _reference(operation.answer)
        success["content"] = {"application/json": {"schema": schema}}
    else:
        success["content"] = {"text/plain": {"schema": {"type": "string"}}}
    responses: dict[str, Any] = {str(operation.status): success}
    if operation.method == "PUT" and 428 in operation.problems:
        responses["201"] = {**success, "description": "Created"}
    usual = {422}
    if operation.scope is not None:
        usual |= {401, 403, 429, 503}
    if operation.body is not None:
        usual |= {400, 413, 415}
    if operation.idempotent:
        usual |= {409}
    # An id beyond what the database can hold is no address at all.
    usual |= {404} if "<" in operation.rule else set()
    for status in sorted(usual | set(operation.problems)):
        if status == 503 and operation.scope is None and operation.answer is not None:
            responses["503"] = {**success, "description": _SAID[503]}
            continue
        responses[str(status)] = {
            "description": _SAID[status],
            "content": {CONTENT_TYPE: {"schema": problem_schema()}},
        }
    return responses


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def _not_null(field: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is there or not; there is no null."""
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) != 1:
        return field
    rest = {k: v for k, v in field.items() if k not in {"anyOf", "default"}}
    return {**kinds[0], **rest}


def openapi_blueprint(blueprints: Iterable[ApiBlueprint], prefixes: dict[str, str]) -> Blueprint:
    """``/openapi.json`` and ``/docs`` for these blueprints."""
    described = tuple(blueprints)

    @cache
    def description() -> dict[str, Any]:
        return describe(described, prefixes)

    pages = Blueprint("openapi", __name__, template_folder="templates")

    @pages.get("/openapi.json")
    def document() -> Response:
        return jsonify({**description(), "servers": [{"url": _root()}]})

    @pages.get("/docs")
    def docs() -> Response:
        page = render_template(
            "atmr_docs.html", api=description(), root=_root(), raw=url_for(".document")
        )
        response = Response(page)
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return response

    return pages


def _root() -> str:
    """Where the API hangs in this server: the host's mount point and our prefix."""
    path = url_for(".document").removesuffix("/openapi.json")
    if path.startswith(request.script_root):
        return path or "/"
    return request.script_root + path or "/"
