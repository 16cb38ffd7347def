"""An example of what a schema describes, to begin with in a form: what its author gave, or something that fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schemas import REFERENCE, Schema

__all__ = ["example"]

# Models within models; what is deeper is left out.
DEEPEST = 6
# Longer texts and lists are nobody's idea of an example.
LONGEST = 1000

_TEXTS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "uuid": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
    "email": "ann@example.org",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
}


def example(schema: Any, models: Mapping[str, Schema], depth: int = 0) -> Any:
    """None if there is none. It need not fit: patterns, and what is validated by code, are not understood."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return None
    if (reference := schema.get("$ref")) is not None:
        return example(models.get(str(reference).removeprefix(REFERENCE), {}), models, depth + 1)
    for known in (schema.get("examples"), [schema["const"]] if "const" in schema else None, schema.get("enum")):
        if known:
            return known[0]
    if schema.get("default") is not None:
        return schema["default"]
    return _made(schema, models, depth)


def _made(schema: Schema, models: Mapping[str, Schema], depth: int) -> Any:
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            chosen = [choice for choice in schema[name] if choice.get("type") != "null"]
            return example(chosen[0], models, depth) if chosen else None
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, models, depth)
    if kind == "array":
        return _array(schema, models, depth)
    if kind == "string":
        return _text(schema)
    if kind in ("integer", "number"):
        return _number(schema)
    return True if kind == "boolean" else None


def _object(schema: Schema, models: Mapping[str, Schema], depth: int) -> dict[str, Any]:
    """What must be there, and what has a value already."""
    required = schema.get("required", ())
    return {
        name: example(inner, models, depth + 1)
        for name, inner in schema.get("properties", {}).items()
        if name in required or inner.get("examples") or inner.get("default") is not None
    }


def _array(schema: Schema, models: Mapping[str, Schema], depth: int) -> list[Any]:
    items = schema.get("items", {})
    if isinstance(items, list):
        return [example(item, models, depth + 1) for item in items]
    if depth > DEEPEST // 2 and not schema.get("minItems"):  # a tree ends somewhere
        return []
    one = example(items, models, depth + 1)
    return [] if one is None else [one] * max(1, min(schema.get("minItems", 1), LONGEST))


def _text(schema: Schema) -> str:
    text = _TEXTS.get(schema.get("format", ""), "string")
    least: int = min(schema.get("minLength", 0), LONGEST)
    most: int = schema.get("maxLength", LONGEST)
    return (text + "." * (least - len(text)))[:most]


def _number(schema: Schema) -> float:
    step = schema.get("multipleOf", 1)
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    bounds = [value for value in (least, most) if value is not None]
    beside = [value + step * sign for value, sign in ((above, 1), (below, -1)) if value is not None]
    middle = [(above + below) / 2] if above is not None and below is not None else []

    def fits(value: float) -> bool:
        inside = (least is None or value >= least) and (most is None or value <= most)
        return inside and (above is None or value > above) and (below is None or value < below)

    return next((value for value in (0, step, *bounds, *beside, *middle) if fits(value)), 0)
