"""JSON Schema as TypeScript: what a value of JSON is like, without its bounds and patterns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from .names import RESERVED, comment, is_identifier, literal, member, type_name, unique

__all__ = ["Types", "union"]

_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def union(types: Iterable[str]) -> str:
    """Each once, in their order."""
    found = list(dict.fromkeys(types))
    if "unknown" in found:
        return "unknown"
    return " | ".join(each for each in found if each != "never") or "never"


class Types:
    """The named schemas of a document; `text` writes any schema as a type that may refer to them."""

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas
        # By the names that the document gives them.
        self._names: dict[str, str] = {}
        for name in schemas:
            self._names[name] = unique(_short(name, schemas), {*RESERVED, *self._names.values()})

    @property
    def names(self) -> Collection[str]:
        return self._names.values()

    def declarations(self) -> Iterator[str]:
        for name, schema in self._schemas.items():
            yield self._declaration(self._names[name], schema)

    def _declaration(self, name: str, schema: Any) -> str:
        about = comment(_about(schema))
        if _is_record(schema):
            return f"{about}export interface {name} {self._record(schema, '')}\n"
        return f"{about}export type {name} = {self.text(schema)};\n"

    # Types

    def text(self, schema: Any, indent: str = "") -> str:
        """A schema as a type; what is not understood is `unknown`."""
        if not isinstance(schema, Mapping):
            return "never" if schema is False else "unknown"
        if "$ref" in schema:
            return self._names.get(str(schema["$ref"]).rpartition("/")[2], "unknown")
        if "const" in schema:
            return _value(schema["const"])
        if isinstance(values := schema.get("enum"), list):
            return union(map(_value, values))
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                return union(self.text(each, indent) for each in schema[key])
        if isinstance(parts := schema.get("allOf"), list):
            return self._all(parts, schema, indent)
        return self._by_kind(schema, indent)

    def _all(self, parts: list[Any], schema: Mapping[str, Any], indent: str) -> str:
        """An intersection; with what stands beside it, if that are properties."""
        own = [schema] if "properties" in schema else []
        texts = [self.text(part, indent) for part in parts]
        texts += [self._record(each, indent) for each in own]
        known = [f"({each})" if " | " in each else each for each in texts if each != "unknown"]
        return " & ".join(dict.fromkeys(known)) or "unknown"

    def _by_kind(self, schema: Mapping[str, Any], indent: str) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            return union(self._by_kind({**schema, "type": each}, indent) for each in kind)
        if kind == "array":
            return self._array(schema, indent)
        if kind == "object" or "properties" in schema:
            return self._object(schema, indent)
        return _SIMPLE.get(str(kind), "unknown")

    def _array(self, schema: Mapping[str, Any], indent: str) -> str:
        fixed = schema.get("prefixItems")
        rest = schema.get("items", {})
        if isinstance(rest, list):  # of draft 7
            fixed, rest = rest, schema.get("additionalItems", {})
        if isinstance(fixed, list):
            return self._tuple(fixed, rest, schema, indent)
        if schema.get("maxItems") == 0:
            return "[]"
        return _array_of(self.text(rest, indent))

    def _tuple(self, fixed: list[Any], rest: Any, schema: Mapping[str, Any], indent: str) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        texts = [self.text(each, indent) for each in fixed]
        parts = [each if place < least else _optional(each) for place, each in enumerate(texts)]
        ends = rest is False or (most is not None and most <= len(fixed))
        return f"[{', '.join(parts if ends else [*parts, f'...{_array_of(self.text(rest, indent))}'])}]"

    def _object(self, schema: Mapping[str, Any], indent: str) -> str:
        if schema.get("properties"):
            return self._record(schema, indent)
        values, keys = self._values(schema, indent), self._keys(schema)
        if values == "never":
            return "{ [key: string]: never }"
        return f"{{ [key in {keys}]?: {values} }}" if keys != "string" else f"{{ [key: string]: {values} }}"

    def _values(self, schema: Mapping[str, Any], indent: str) -> str:
        patterns = schema.get("patternProperties")
        if isinstance(patterns, Mapping):
            return union(self.text(each, indent) for each in patterns.values())
        return self.text(schema.get("additionalProperties", {}), indent)

    def _keys(self, schema: Mapping[str, Any]) -> str:
        """What names the properties may have, where these are listed."""
        names = schema.get("propertyNames")
        if isinstance(names, Mapping) and "$ref" in names:
            names = self._schemas.get(str(names["$ref"]).rpartition("/")[2])
        listed = isinstance(names, Mapping) and isinstance(names.get("enum", [names.get("const")]), list)
        text = self.text(names) if listed else "string"
        return text if text.startswith('"') else "string"

    def _record(self, schema: Mapping[str, Any], indent: str) -> str:
        """The body of an interface."""
        inner = indent + "  "
        required = schema.get("required", ())
        lines = [
            f"{comment(_about(each), inner)}{inner}{member(name)}{'' if name in required else '?'}: "
            f"{self.text(each, inner)};\n"
            for name, each in schema.get("properties", {}).items()
        ]
        if schema.get("additionalProperties"):  # of any type, because that holds for those above too
            lines.append(f"{inner}[key: string]: unknown;\n")
        return "{\n" + "".join(lines) + indent + "}" if lines else "{}"


def _short(name: str, schemas: Mapping[str, Any]) -> str:
    """What comes out of the application has the plain name, if nothing else has it."""
    plain = name.removesuffix("-Output")
    return type_name(name if plain in schemas else plain)


def _is_record(schema: Any) -> bool:
    mixed = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
    return isinstance(schema, Mapping) and bool(schema.get("properties")) and not any(key in schema for key in mixed)


def _about(schema: Any) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    if isinstance(text := schema.get("description") or schema.get("format"), str):
        yield text
    if schema.get("deprecated") is True:
        yield "@deprecated"


def _value(value: Any) -> str:
    return literal(value) if value is None or isinstance(value, str | int | float) else "unknown"


def _array_of(text: str) -> str:
    return f"{text}[]" if is_identifier(text) else f"Array<{text}>"


def _optional(text: str) -> str:
    return f"{text}?" if is_identifier(text) else f"({text})?"
