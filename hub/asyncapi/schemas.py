"""The JSON Schemas of many types at once, in the dialect that AsyncAPI 3.0 reads: draft 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

__all__ = ["REFERENCE", "Schema", "Wanted", "draft_07", "schemas_of"]

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/"

# Keywords whose values are schemas: one, a list, a mapping.
_ONE = ("items", "additionalItems", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else")
_LIST = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_MAPPING = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


class Wanted(NamedTuple):
    """A type, as it must come in (`validation`) or as it goes out."""

    type: Any
    mode: Literal["validation", "serialization"]


class _Lenient(GenerateJsonSchema):
    """Parts that JSON Schema cannot say are anything."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}


def schemas_of(wanted: Mapping[str, Wanted]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The schema of each, and the models that they refer to, by names that tell all of them apart."""
    inputs = [(key, mode, TypeAdapter[Any](kind)) for key, (kind, mode) in wanted.items()]
    if not inputs:
        return {}, {}
    found, shared = TypeAdapter.json_schemas(
        inputs, ref_template=REFERENCE + "{model}", schema_generator=_Lenient, by_alias=True
    )
    models: dict[str, Schema] = shared.get("$defs", {})
    names = _merged(models)
    return (
        {key: draft_07(schema, names) for (key, _), schema in found.items()},
        {names.get(name, name): draft_07(schema, names) for name, schema in models.items()},
    )


def _merged(models: Mapping[str, Schema]) -> dict[str, str]:
    """Another name for the two forms of a model that are the same.

    Pydantic finds that out by itself unless they refer to themselves, or to others of that kind.
    """
    plain = {name.removesuffix("-Input") for name in models if name.endswith("-Input")}
    same = {name for name in plain if f"{name}-Output" in models and name not in models}
    while True:
        names = {f"{name}-{way}": name for name in same for way in ("Input", "Output")}
        differ = {
            name
            for name in same
            if draft_07(models[f"{name}-Input"], names) != draft_07(models[f"{name}-Output"], names)
        }
        if not differ:
            return names
        same -= differ


def draft_07(schema: Any, names: Mapping[str, str]) -> Any:
    """A schema of pydantic, which is of 2020-12, in the words of draft 7; it refers to models by other `names`."""
    if not isinstance(schema, dict):  # true, false
        return schema
    said = {key: _inner(key, value, names) for key, value in schema.items() if key != "discriminator"}
    if "prefixItems" in said:
        rest = said.pop("items", None)
        said["items"] = said.pop("prefixItems")
        if rest is not None:
            said["additionalItems"] = rest
    return said


def _inner(key: str, value: Any, names: Mapping[str, str]) -> Any:
    if key == "$ref":
        name = str(value).removeprefix(REFERENCE)
        return REFERENCE + names.get(name, name)
    if key in _MAPPING and isinstance(value, dict):
        return {name: draft_07(schema, names) for name, schema in value.items()}
    if key in _LIST and isinstance(value, list):
        return [draft_07(schema, names) for schema in value]
    return draft_07(value, names) if key in _ONE else value
