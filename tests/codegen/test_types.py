"""JSON Schema as TypeScript: a table, and what the compiler makes of values that pydantic takes and refuses."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from annotated_types import Gt, Len
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType, TypedDict

from hub.asyncapi.schemas import Schema, Wanted, schemas_of
from hub.codegen.names import camel, comment, is_identifier, literal, member, type_name
from hub.codegen.types import Types
from tests.support import typescript


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Author(BaseModel):
    """Who."""

    name: str
    age: int | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Node(BaseModel):
    label: str
    parent: Node | None = None
    children: list[Node] = []


class Odd(BaseModel):
    """A comment that tries to end: */ export const x = 1; /*"""

    model_config = ConfigDict(populate_by_name=True)

    with_space: int = Field(alias="with space")
    quote: int = Field(0, alias='"; evil(); //')
    class_: str = Field("", alias="class", description="One.\nTwo */ three.", deprecated=True)
    proto: int = Field(0, alias="__proto__")
    umlaut: int = Field(0, alias="größe")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class Row(TypedDict, total=False):
    text: str


class Point(NamedTuple):
    x: float
    y: float = 0


Tree = TypeAliasType("Tree", "dict[str, Tree] | list[Tree] | int")

# Types as TypeScript has them, with values that fit and values that do not.
CASES: list[tuple[str, Any, str, list[Any], list[Any]]] = [
    ("text", str, "string", ["a"], [1]),
    ("whole", int, "number", [1], ["a"]),
    ("float", float, "number", [1.5], ["a"]),
    ("bool", bool, "boolean", [True], [7]),
    ("none", None, "null", [None], ["a"]),
    ("any", Any, "unknown", [1, None, {}], []),
    ("date", date, "string", ["2026-01-31"], [[]]),
    ("datetime", datetime, "string", ["2026-01-31T00:00:00Z"], [[]]),
    ("uuid", UUID, "string", ["3fa85f64-5717-4562-b3fc-2c963f66afa6"], [1]),
    ("decimal", Decimal, "number | string", [1, "1.5"], [[]]),
    ("nullable", int | None, "number | null", [1, None], ["a"]),
    ("union", int | str | list[int], "number | string | number[]", [1, "a", [1]], [{}]),
    ("literal", Literal["a", 1, None], '"a" | 1 | null', ["a", 1, None], ["b", 2]),
    ("enum", Colour, "Colour", ["red"], ["green"]),
    ("numbers", Level, "Level", [1], [3]),
    ("bounded", Annotated[int, Gt(3)], "number", [4], ["a"]),
    ("list", list[str], "string[]", [[], ["a"]], [[1], "a"]),
    ("lists", list[int | str], "Array<number | string>", [[1, "a"]], [[None]]),
    ("set", set[int], "number[]", [[1]], [["a"]]),
    ("sized", Annotated[list[int], Len(2, 2)], "number[]", [[1, 2]], [["a"]]),
    ("tuple", tuple[int, str], "[number, string]", [[1, "a"]], [[1], ["a", 1], [1, "a", 2]]),
    ("empty", tuple[()], "[]", [[]], [[1]]),
    ("named", Point, "Point", [[1], [1, 2]], [["a"], [1, 2, 3]]),
    ("dict", dict[str, int], "{ [key: string]: number }", [{}, {"a": 1}], [{"a": "b"}]),
    ("keys", dict[Colour, int], '{ [key in "red" | "blue"]?: number }', [{"red": 1}], [{"red": "a"}, {"green": 1}]),
    ("patterns", dict[Annotated[str, Field(pattern="^a")], int], "{ [key: string]: number }", [{"a": 1}], [{"a": "b"}]),
    ("object", dict[str, Any], "{ [key: string]: unknown }", [{"a": 1}], [1]),
    ("model", Author, "Author", [{"name": "Ann"}, {"name": "A", "age": None}], [{}, {"name": 1}]),
    ("models", dict[str, list[Author]], "{ [key: string]: Author[] }", [{"a": [{"name": "A"}]}], [{"a": [{}]}]),
    (
        "tagged",
        Cat | Dog,
        "Cat | Dog",
        [{"kind": "cat", "lives": 9}, {"kind": "dog"}],
        [{"kind": "cow"}, {"kind": "cat"}],
    ),
    ("recursive", Node, "Node", [{"label": "a", "children": [{"label": "b"}]}], [{"label": "a", "children": [{}]}]),
    ("alias", Tree, "Tree", [1, {"a": [{"b": 2}]}], ["a", {"a": "b"}]),
    ("typeddict", Row, "Row", [{}, {"text": "a"}], [{"text": 1}]),
    ("extra", Open, "Open", [{"number": 1, "more": "a"}], [{"more": 1}]),
    ("odd", Odd, "Odd", [{"with space": 1, "class": "a", '"; evil(); //': 2, "größe": 3}], [{"with space": "a"}]),
]


def types_of(*kinds: Any) -> tuple[Types, list[Schema]]:
    wanted = {str(number): Wanted(kind, "validation") for number, kind in enumerate(kinds)}
    found, models = schemas_of(wanted)
    return Types(models), [found[key] for key in wanted]


@pytest.mark.parametrize(("kind", "text"), [pytest.param(kind, text, id=name) for name, kind, text, _, _ in CASES])
def test_the_text(kind: Any, text: str) -> None:
    """What pydantic says of a type, in TypeScript."""
    types, (schema,) = types_of(kind)
    assert types.text(schema) == text


@pytest.mark.timeout(300)
def test_the_compiler_takes_what_pydantic_takes(tmp_path: Path) -> None:
    """Each value that is right compiles, each that is wrong does not; all declarations together are one module."""
    typescript.packages()
    types, schemas = types_of(*(kind for _, kind, _, _, _ in CASES))
    lines = [*types.declarations()]
    for (name, kind, _, right, wrong), schema in zip(CASES, schemas, strict=True):
        lines.append(f"type Case_{name} = {types.text(schema)};\n")
        for number, value in enumerate(right):
            TypeAdapter(kind).validate_json(json.dumps(value))
            lines.append(f"export const {name}_{number}: Case_{name} = {literal(value)};\n")
        for number, value in enumerate(wrong):
            with pytest.raises(ValidationError):
                TypeAdapter(kind).validate_json(json.dumps(value))
            lines.append(f"// @ts-expect-error\nexport const {name}_not_{number}: Case_{name} = {literal(value)};\n")
    typescript.program(tmp_path, types="".join(lines))
    assert typescript.compiled(tmp_path) == []


def test_a_declaration_says_what_the_model_says() -> None:
    """Descriptions are comments, and cannot end them; names that are none are quoted."""
    types, _ = types_of(Odd)
    (text,) = types.declarations()
    assert text.startswith("/** A comment that tries to end: *\\/ export const x = 1; /* */\nexport interface Odd {\n")
    assert '  "with space": number;\n' in text
    assert '  "\\"; evil(); //"?: number;\n' in text
    assert '  ["__proto__"]?: number;\n' in text
    assert "  /**\n   * One.\n   * Two *\\/ three.\n   * @deprecated\n   */\n  class?: string;\n" in text


# By name, in words that pydantic does not use or only rarely.
WORDS: dict[str, tuple[Any, str]] = {
    "true": (True, "unknown"),
    "false": (False, "never"),
    "nothing": ({}, "unknown"),
    "several": ({"type": ["string", "null"]}, "string | null"),
    "lost": ({"$ref": "#/components/schemas/Lost"}, "unknown"),
    "const": ({"const": {"a": 1}}, "unknown"),
    "all": (
        {"allOf": [{"$ref": "#/components/schemas/A"}, {"anyOf": [{"type": "null"}, {"type": "string"}]}]},
        "A & (null | string)",
    ),
    "beside": ({"allOf": [{"$ref": "#/components/schemas/A"}], "properties": {"b": {}}}, "A & {\n  b?: unknown;\n}"),
    "any of all": ({"anyOf": [{"type": "string"}, {}]}, "unknown"),
    "fixed": ({"type": "array", "items": [{}], "additionalItems": False, "minItems": 1}, "[unknown]"),
    "rest": ({"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "string"}}, "[null?, ...string[]]"),
    "no list": ({"type": "array", "maxItems": 0}, "[]"),
    "no object": ({"type": "object", "additionalProperties": False}, "{ [key: string]: never }"),
    "no type": ({"properties": {"a": {"type": "null"}}, "required": ["a"]}, "{\n  a: null;\n}"),
    "unheard of": ({"type": "file"}, "unknown"),
    "any names": ({"type": "object", "propertyNames": {"pattern": "a"}}, "{ [key: string]: unknown }"),
}


@pytest.mark.parametrize(("schema", "text"), WORDS.values(), ids=WORDS)
def test_other_words(schema: Any, text: str) -> None:
    """What is not understood is unknown, never wrong."""
    assert Types({"A": {"type": "object", "properties": {"a": {}}}}).text(schema) == text


def test_a_model_may_be_anything() -> None:
    """`true` is a schema, too."""
    assert list(Types({"A": True, "B": False}).declarations()) == [
        "export type A = unknown;\n",
        "export type B = never;\n",
    ]


def test_models_do_not_take_names_that_mean_something() -> None:
    """Those of the file and of the language; each model has a name of its own."""
    names = [
        "Hub",
        "Promise",
        "string",
        "Message",
        "Message-Output",
        "Message-Input",
        "Page_int_",
        "a.b",
        "aB",
        "1st",
        "ß",
    ]
    found = list(Types({name: {} for name in names}).names)
    assert found == [
        *("HubModel", "PromiseModel", "stringModel", "Message", "MessageOutput", "MessageInput", "PageInt"),
        *("aB", "aB2", "Model1st", "Model"),
    ]
    assert list(Types({"Message-Output": {}, "Message-Input": {}}).names) == ["Message", "MessageInput"]


# Among them what begins and ends comments, texts and parts of templates.
@given(st.text() | st.text(alphabet="*/\\`${}\"'\n\r\u2028a"))
def test_any_text_is_a_name_a_literal_and_a_comment(text: str) -> None:
    """Nothing that others wrote becomes a part of the program."""
    assert is_identifier(camel(text, "fallback"))
    assert is_identifier(type_name(text))
    assert json.loads(literal(text)) == text
    assert literal(text).isascii()
    name = member(text)
    assert name in (text, literal(text), '["__proto__"]')
    assert comment([text]).count("*/") == 1
    assert comment([text]).rstrip().endswith("*/")
