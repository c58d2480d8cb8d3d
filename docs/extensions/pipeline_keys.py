"""The directive ``pipeline-keys``: tables of the keys of pipeline.yaml, made from its schema."""

from __future__ import annotations

import json
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from snakemake_blocks.operations.registry import json_schema

Schema = dict[str, Any]
_SHOWN = 4


def form_of(schema: Schema, definitions: Schema) -> str:
    """Return in words what a key takes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        inner = definitions[name]
        return " | ".join(inner["enum"]) if "enum" in inner else keys_of(inner)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            forms = [form_of(s, definitions) for s in schema[union] if s.get("type") != "null"]
            if "number" in forms:
                forms = [form for form in forms if form != "whole number"]
            return " or ".join(dict.fromkeys(forms))
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        inner = form_of(schema["items"], definitions)
        return f"list of {inner.replace('number', 'numbers').replace('text', 'texts')}"
    if kind == "object":
        return mapping_of(schema, definitions)
    words = {"boolean": "true or false", "integer": "whole number", "number": "number"}
    if kind == "string" and ":" in schema.get("pattern", ""):
        return "module:name"
    if kind == "string":
        return "path" if "minLength" in schema else "text"
    return words.get(str(kind), "anything")


def keys_of(model: Schema) -> str:
    """Return the keys of an inner form, as YAML writes them; many keys have their own table."""
    if len(model["properties"]) > _SHOWN:
        return "keys"
    return "{" + ", ".join(f"{key}: ..." for key in model["properties"]) + "}"


def mapping_of(schema: Schema, definitions: Schema) -> str:
    values = schema.get("additionalProperties")
    if not isinstance(values, dict):
        patterns = schema.get("patternProperties", {})
        values = next(iter(patterns.values()), None)
    inner = form_of(values, definitions) if values else "anything"
    return "{name: ...}" if inner == "anything" else f"{{name: {inner}}}"


def default_of(key: str, model: Schema) -> str:
    if key in model.get("required", []):
        return "required"
    default = model["properties"][key].get("default")
    return "" if default is None else json.dumps(default).strip('"')


class PipelineKeys(SphinxDirective):
    """A table of the keys of one form: ``PipelineModel``, ``TaskModel``, ..."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        schema = json_schema()
        definitions = schema["$defs"]
        name = self.arguments[0]
        model = schema if name == schema["title"] else definitions[name]
        rows = [
            (key, form_of(form, definitions), default_of(key, model), form["description"])
            for key, form in model["properties"].items()
        ]
        return [_table(("key", "takes", "default", "means"), rows, literal=(0, 1, 2))]


def _table(
    head: tuple[str, ...], rows: list[tuple[str, ...]], *, literal: tuple[int, ...]
) -> nodes.table:
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row(head, ()))
    group += nodes.tbody("", *(_row(row, literal) for row in rows))
    return nodes.table("", group, classes=["pipeline-keys"])


def _row(cells: tuple[str, ...], literal: tuple[int, ...]) -> nodes.row:
    row = nodes.row()
    for column, text in enumerate(cells):
        inner = nodes.literal(text, text) if text and column in literal else nodes.Text(text)
        row += nodes.entry("", nodes.paragraph("", "", inner))
    return row


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("pipeline-keys", PipelineKeys)
    return {"parallel_read_safe": True}
