"""Write docs/reference/ from the code: commands, configuration, terms, codes, routes. ``tests/test_docs.py`` compares.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from negotiator.api.app import ROUTES
from negotiator.cli import COMMANDS
from negotiator.config import Config
from negotiator.errors import RejectCode
from negotiator.order import Loss
from negotiator.wire import PlanOptions, Terms
from providers.terms import DeclineCode, DiscountKind

__all__ = ["pages", "write"]

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/make_reference.py from the code; edit that. -->\n"


def pages() -> dict[str, str]:
    """File name → text, all of docs/reference/ that is generated."""
    made = {
        "cli.md": _cli(),
        "configuration.md": _configuration(),
        "terms.md": _terms(),
        "codes.md": _codes(),
        "http.md": _http(),
    }
    return {name: NOTE + "\n" + text.rstrip() + "\n" for name, text in made.items()}


def write(folder: Path = FOLDER) -> None:
    """Write them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _cli() -> str:
    parts = [
        "# Commands\n",
        "Every command takes `--help`, and `--json` for machines where it prints a result. Exit code 0: done; 1: refused or"
        " failed, with one line on stderr; 2: wrong usage. Tab completion: `negotiator completion bash` (or `zsh`, `fish`)."
        if "completion" in COMMANDS
        else "Every command takes `--help`, and `--json` for machines where it prints a result. Exit code 0: done; 1: refused or"
        " failed, with one line on stderr; 2: wrong usage.",
    ]
    for name in sorted(COMMANDS):
        command = importlib.import_module(f"negotiator.cli.{name}").command
        for title, text in _helps(f"negotiator {name}", command):
            parts.append(f"\n## {title}\n\n```text\n{text.rstrip()}\n```")
    return "\n".join(parts)


def _helps(path: str, command: click.Command) -> Iterator[tuple[str, str]]:
    names = ["-h", "--help"]  # as the program has them; click remembers what it was asked first
    context = click.Context(
        command, info_name=path, terminal_width=100, max_content_width=100, help_option_names=names
    )
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _helps(f"{path} {name}", below)


def _configuration() -> str:
    parts = [
        "# Configuration\n",
        "`negotiator.toml`, named with `--config`. Unknown keys are refused with file and line. An environment variable"
        " `NEGOTIATOR_SECTION__KEY` overrides a key. Secrets are never in the file: `api_key_env` names the variable that has"
        " them. Money is a decimal string of US dollars.\n",
    ]
    for name, field in Config.model_fields.items():
        model = _model(field.annotation)
        if model is None:
            parts.append(f"## `{name}`\n\n{_shape(Config, name)}\n")
        elif model is Terms:
            parts.append(f"## `[{name}.NAME]`\n\nNamed sets of [terms](terms.md).\n")
        else:
            many = "tuple" in str(field.annotation)
            parts += _section(f"[[{name}]]" if many else f"[{name}]", model)
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## `{title}`\n\n{_first_paragraph(model)}\n"
    yield _table(("key", "value", "default"), _fields(model))
    for name, field in model.model_fields.items():
        below = _model(field.annotation)
        if below is not None and below is not Terms:
            yield from _section(f"{title.strip('[]')}.{name}", below)


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    required = model.model_json_schema().get("required", [])
    for name, field in model.model_fields.items():
        default = (
            "required"
            if name in required
            else ""
            if _model(field.annotation)
            else _value(field.get_default())
        )
        yield f"`{name}`", _shape(model, name), default


def _value(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return f"`{json.dumps(value, default=str)}`"


def _shape(model: type[BaseModel], name: str) -> str:
    """In words what a field takes, from its JSON Schema."""
    schema = model.model_json_schema()
    return _words(schema["properties"][name], schema.get("$defs", {}))


def _words(one: dict[str, Any], defs: dict[str, Any]) -> str:
    if "$ref" in one:
        name = one["$ref"].rpartition("/")[2]
        target = defs[name]
        return _words(target, defs) if "enum" in target else "table, below"
    for joint in ("anyOf", "oneOf", "allOf"):
        if joint in one:
            said = [_words(each, defs) for each in one[joint] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(said))
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    if "const" in one:
        return f"`{one['const']}`"
    kind = one.get("type", "value")
    if kind == "array":
        return "list of " + _words(one.get("items", {}), defs)
    if kind == "object":
        return "table"
    return {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(kind, kind) + _range(
        one
    )


def _range(one: dict[str, Any]) -> str:
    low = next(
        (
            f"{sign} {one[key]:,}"
            for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"))
            if key in one
        ),
        "",
    )
    high = next(
        (
            f"{sign} {one[key]:,}"
            for key, sign in (("maximum", "<="), ("exclusiveMaximum", "<"))
            if key in one
        ),
        "",
    )
    said = " and ".join(each for each in (low, high) if each)
    return f" {said}" if said else ""


def _model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation, None = there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _model(part))), None)


def _first_paragraph(thing: Any) -> str:
    return " ".join((thing.__doc__ or "").strip().split("\n\n")[0].split())


def _terms() -> str:
    return "\n".join(
        [
            "# Terms and options\n",
            "The same names in HTTP (body member `negotiator` or `terms`), SDK, command line, batch lines and profiles. What a"
            " term means: [glossary](../glossary.md). A term is never relaxed in silence.\n",
            "## Terms of an order\n",
            _table(("term", "value", "default"), _fields(Terms)),
            "## Options of a plan\n",
            _table(("option", "value", "default"), _fields(PlanOptions)),
        ]
    )


def _codes() -> str:
    rejects = ((int(c), f"`{c.name}`", c.http_status, "yes" if c.again else "no") for c in RejectCode)
    return "\n".join(
        [
            "# Codes\n",
            "## Rejects: the house's coded no\n",
            'Checked in this order, the first that applies is said. "Again": whether the same order may succeed later without'
            " a change; `retry-after-ms` then says when.\n",
            _table(("code", "name", "HTTP", "again"), rejects),
            "## Declines: a seller's coded no\n",
            _table(("code", "name"), ((f"D{int(c)}", f"`{c.name}`") for c in DeclineCode)),
            "## Losses: why a quote was not chosen\n",
            _table(("code", "name"), ((f"L{int(c)}", f"`{c.name}`") for c in Loss)),
            "## Discounts on a quote\n",
            ", ".join(f"`{kind.value}`" for kind in DiscountKind) + ".",
        ]
    )


def _http() -> str:
    rows = (
        (
            f"`{one.method} {one.path}`",
            f"`{one.scope}`" if one.scope else "none",
            _first_paragraph(one.handler),
        )
        for one in sorted(ROUTES, key=lambda one: (one.path, one.method))
    )
    return "\n".join(
        [
            "# HTTP API\n",
            "Served by `negotiator serve`; `/docs` shows every field offline, `/openapi.json` is OpenAPI 3.1. Errors have"
            ' OpenAI\'s shape: `{"error": {"message", "type", "param", "code", "reject"}}`.\n',
            _table(("route", "scope", "answers"), rows),
        ]
    )


if __name__ == "__main__":
    write()
