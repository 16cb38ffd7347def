"""Schemas in the words of draft 7 mean what pydantic's mean, and examples fit them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from jsonschema import Draft7Validator
from pydantic import BaseModel, ConfigDict, Field, Json, TypeAdapter
from typing_extensions import TypeAliasType, TypedDict

from hub.asyncapi.examples import example
from hub.asyncapi.schemas import Wanted, draft_07, schemas_of


class Inner(BaseModel):
    number: Annotated[int, Gt(5)]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = "Rex"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Both(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # Named as keywords are.
    properties: int
    discriminator: Inner
    items: list[Inner]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Row(TypedDict, total=False):
    text: str


Tree = TypeAliasType("Tree", "dict[str, Tree] | int")

# Types, each with values that fit and some that do not.
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (tuple[int, str], [[1, "a"]], [[1], ["a", 1], [1, "a", 2]]),
    (tuple[int, ...], [[], [1, 2]], [["a"]]),
    (Inner | None, [None, {"number": 6}], [{"number": 5}, {}]),
    (Colour, ["red"], ["green"]),
    (dict[str, Inner], [{}, {"a": {"number": 7}}], [{"a": {}}, []]),
    (dict[Colour, int], [{"red": 1}], [{"green": 1}]),
    (Row, [{}, {"text": "a"}], [{"text": 1}]),
    (Tree, [1, {"a": {"b": 2}}], ["a", {"a": "b"}]),
    (
        Both,
        [{"properties": 1, "discriminator": {"number": 6}, "items": [], "pet": {"kind": "dog"}}],
        [{"properties": 1}],
    ),
]


def schema_of(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found, models = schemas_of({"it": Wanted(kind, "validation")})
    return found["it"], models


def validator(schema: Mapping[str, Any], models: Mapping[str, Any]) -> Draft7Validator:
    document = {**schema, "components": {"schemas": models}} if "$ref" not in schema else None
    whole = document or {"allOf": [schema], "components": {"schemas": models}}
    Draft7Validator.check_schema(whole)
    return Draft7Validator(whole)


@pytest.mark.parametrize(("kind", "right", "wrong"), CASES, ids=str)
def test_draft_7_takes_the_same_values(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    """What pydantic takes fits the schema; what it refuses does not."""
    checks = validator(*schema_of(kind))
    for value in right:
        TypeAdapter(kind).validate_json(json.dumps(value))
        assert checks.is_valid(value), value
    for value in wrong:
        assert not checks.is_valid(value), value


def test_fields_that_are_called_like_keywords_are_fields() -> None:
    """`discriminator`, `items` and `properties` are names there; the keyword is left out: AsyncAPI has another one."""
    _, models = schema_of(Both)
    assert models["Both"]["properties"].keys() == {"properties", "discriminator", "items", "pet"}
    assert "discriminator" not in models["Both"]["properties"]["pet"]


def test_data_in_a_schema_is_not_touched() -> None:
    """Defaults, constants and examples may look like schemas."""
    data = {"prefixItems": [1], "discriminator": "x", "$ref": "#/components/schemas/A-Input"}
    schema = {"default": data, "const": data, "examples": [data], "enum": [data]}
    assert draft_07(schema, {"A-Input": "A"}) == schema


def test_a_rest_behind_fixed_items() -> None:
    """`items` behind `prefixItems` is `additionalItems` in draft 7."""
    schema = {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}
    assert draft_07(schema, {}) == {"items": [{"type": "string"}], "additionalItems": {"type": "integer"}}
    assert draft_07(True, {}) is True


EXAMPLES: list[Any] = [
    *(kind for kind, _, _ in CASES if kind is not Tree),
    str,
    Annotated[str, Field(min_length=9)],
    Annotated[str, Field(max_length=3)],
    datetime,
    date,
    timedelta,
    UUID,
    IPv4Address,
    bool,
    float,
    Annotated[int, Ge(3)],
    Annotated[int, Le(-3)],
    Annotated[int, Gt(3), Lt(5)],
    Annotated[int, Lt(-3)],
    Annotated[float, Gt(0), Lt(0.5)],
    Annotated[int, MultipleOf(5), Gt(0)],
    Annotated[list[int], Field(min_length=2)],
    Literal["a", "b"],
    Json[int],
    set[int],
    Annotated[str, Field(examples=["mine"], pattern="^mine$")],
    None,
]


@pytest.mark.parametrize("kind", EXAMPLES, ids=str)
def test_an_example_fits(kind: Any) -> None:
    """Whatever the bounds are."""
    found = example(*schema_of(kind))
    TypeAdapter(kind).validate_json(json.dumps("1" if kind == Json[int] else found))


def test_an_example_has_what_must_be_there_and_what_has_a_value() -> None:
    """Other fields are left out, as are those that are null by themselves."""

    class Model(BaseModel):
        must: str
        may: str | None = None
        has: int = 7
        shown: str = Field("", examples=["so"])

    assert example(*schema_of(Model)) == {"must": "string", "has": 7, "shown": "so"}


def test_an_example_of_a_tree_ends() -> None:
    """A model that contains itself does not go on for ever; nor does one that cannot end."""

    class Fork(BaseModel):
        nodes: list[Node]

    class Node(BaseModel):
        fork: Fork

    class Endless(BaseModel):
        next: Endless

    Fork.model_rebuild(_types_namespace={"Node": Node})
    Node.model_validate(example(*schema_of(Node)))
    assert isinstance(example(*schema_of(Endless)), dict)


def test_an_example_is_short() -> None:
    """It is made while somebody waits, and sent to everybody who asks, however much a model wants."""
    for kind in (Annotated[list[int], Field(min_length=10**6)], Annotated[str, Field(min_length=10**6)]):
        assert len(example(*schema_of(kind))) <= 1000


def test_no_schemas_are_wanted() -> None:
    """A hub may have declared nothing."""
    assert schemas_of({}) == ({}, {})
