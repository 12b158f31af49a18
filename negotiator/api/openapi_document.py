"""The OpenAPI 3.1 document of all routes, made from the models that validate requests and describe answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson
from openapi_pydantic import OpenAPI
from openapi_pydantic.util import PydanticSchema, construct_open_api_with_schema_class
from pydantic import BaseModel

from .routes import FORM_TYPE, JSON_TYPE, Route
from .schemas_words import ErrorOut, MessageErrorOut

__all__ = ["openapi_bytes"]

_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_SAYS: Final = {
    400: "The request is not what was expected; the message names the field.",
    401: "No key, or one that is unknown or has expired.",
    402: "The money does not suffice.",
    403: "Not allowed with this key, or by the buyer's own terms.",
    404: "There is no such thing in the caller's reach.",
    408: "The body took too long to arrive.",
    409: "The same order is still running, or the batch has ended.",
    410: "The quote has expired.",
    413: "The body is larger than this server takes.",
    415: "The body is of another type than is taken here.",
    422: "The terms cannot be met, or the order came before with other content.",
    429: "Busy: try again after `retry-after-ms`.",
    499: "The caller hung up.",
    500: "The server failed.",
    502: "No seller delivered.",
    503: "Not now: try again after `retry-after-ms`.",
    504: "The deadline passed.",
}


def openapi_bytes(routes: Iterable[Route]) -> bytes:
    """The document as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    document = OpenAPI.model_validate(
        {
            "openapi": "3.1.1",
            "info": {
                "title": "negotiator",
                "version": _version(),
                "description": "A marketplace that buys language-model calls. Money is US dollars, in as a decimal"
                " string or number, out always as a decimal string. Time is whole milliseconds.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                }
            },
        }
    )
    whole = construct_open_api_with_schema_class(document)
    values = whole.model_dump(by_alias=True, exclude_none=True, mode="json")
    return orjson.dumps(values)


def _version() -> str:
    try:
        return version("negotiator")
    except PackageNotFoundError:
        return "0"


def _operation(route: Route) -> dict[str, Any]:
    error = MessageErrorOut if route.anthropic else ErrorOut
    doc = (route.handler.__doc__ or "").strip()
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "description": " ".join(doc.partition("\n")[2].split()) or route.summary,
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "operations"],
        "parameters": _parameters(route),
        "responses": {
            str(route.status): _answer(route),
            **{str(status): _body(_SAYS[status], error) for status in _statuses(route)},
        },
    }
    if route.needs_key:
        operation["security"] = [{"bearer": []}, {"x-api-key": []}]
    if route.req is not None:
        content: dict[str, Any] = {JSON_TYPE: {"schema": _schema(route.req)}}
        if route.ndjson:
            content["application/x-ndjson"] = {"schema": {"type": "string"}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.form is not None:
        operation["requestBody"] = {"required": True, "content": {FORM_TYPE: {"schema": _schema(route.form)}}}
    return operation


def _statuses(route: Route) -> list[int]:
    own = {400, 500, *route.errors}
    if route.needs_key:
        own |= {401, 403, 429, 503}
    if route.req is not None or route.form is not None:
        own |= {408, 413, 415}
    return sorted(own)


def _answer(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    models: list[type[BaseModel]] = [model for model in (route.res, *route.also) if model is not None]
    if len(models) == 1:
        content[JSON_TYPE] = {"schema": _schema(models[0])}
    elif models:
        content[JSON_TYPE] = {"schema": {"anyOf": [_schema(model) for model in models]}}
    elif route.produces == JSON_TYPE:
        content[JSON_TYPE] = {"schema": {"type": "object"}}
    if route.streams:
        content["text/event-stream"] = {}
    if route.ndjson:
        content["application/x-ndjson"] = {"schema": {"type": "string"}}
    if not content:
        content[route.produces] = {"schema": {"type": "string"}}
    return {"description": "Done.", "content": content}


def _body(says: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": says, "content": {JSON_TYPE: {"schema": _schema(model)}}}


def _schema(model: type[BaseModel]) -> PydanticSchema[Any]:
    return PydanticSchema.model_validate({"schema_class": model})


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        schema = route.query.model_json_schema()
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": _plain(values)}
            for name, values in schema["properties"].items()
        ]
    return parameters


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A query value's schema without the null it has when absent."""
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return (
        choices[0]
        if len(choices) == 1
        else {k: v for k, v in schema.items() if k not in ("default", "title")}
    )
