"""A typed TypeScript client of an application, in one file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .names import RESERVED, camel, comment, literal, member, unique
from .types import Types, union

__all__ = ["typescript"]

RUNTIME = (Path(__file__).parent / "runtime.ts").read_text()

HEAD = "// Written by `hub codegen ts`: changes are lost when it is written again.\n\n"

# What the client has besides its channels, and what would make a promise of it.
_OWN = frozenset({"hub", "rpc", "then"})
# Features of a channel, and what they give to its class.
_FEATURES = {"history": ("history",), "presence": ("presence", "presenceStats")}


@dataclass(frozen=True, slots=True)
class _Channel:
    """A declared channel: the function that makes it, its class, its parameters as an object's type."""

    function: str
    kind: str
    definition: str
    address: str
    parameters: str

    @property
    def signature(self) -> str:
        return f"({f'parameters: {self.parameters}' if self.parameters else ''}) => {self.kind}"

    @property
    def implementation(self) -> str:
        name = _template(self.address) if self.parameters else literal(self.address)
        return f"({'parameters' if self.parameters else ''}) => new Channel(hub, {name})"


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    request: str
    reply: str

    @property
    def _data(self) -> str:
        if self.request == "null":
            return ""
        optional = "null" in self.request.split(" | ") or self.request == "unknown"
        return f"data{'?' if optional else ''}: {self.request}"

    @property
    def signature(self) -> str:
        return f"({self._data}) => Promise<{self.reply}>"

    @property
    def implementation(self) -> str:
        return f"({'data' if self._data else ''}) => hub.rpc({literal(self.method)}{', data' if self._data else ''})"


def typescript(document: Mapping[str, Any], *, imports: str = "./hub.js") -> str:
    """The file; `imports` is where it finds hub.js. Raises ConfigError for what is no document of a hub."""
    if not str(document.get("asyncapi", "")).startswith("3."):
        raise ConfigError("this is no AsyncAPI document of version 3; /asyncapi.json of a hub is one")
    try:
        return _Client(document).text(imports)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"this AsyncAPI document is not one that a hub writes: {error!r}") from None


class _Client:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._types = Types(document.get("components", {}).get("schemas", {}))
        self._kinds = {*RESERVED, *self._types.names}
        self.channels = list(self._channels())
        self.calls = list(self._calls())

    def text(self, imports: str) -> str:
        head = HEAD + RUNTIME.replace('"./hub.js"', literal(imports), 1)
        kinds = [f"export type {each.kind} = {each.definition};\n" for each in self.channels]
        return "\n".join([head, *self._types.declarations(), *kinds, self._interface(), self._factory()])

    # What is declared

    def _channels(self) -> Iterator[_Channel]:
        taken = set(_OWN)
        for key, channel in self._document.get("channels", {}).items():
            if channel.get("address") is None or _is_untyped(channel):
                continue
            function = unique(camel(key, "channel"), taken)
            kind = unique(f"{function[0].upper()}{function[1:]}Channel", self._kinds)
            taken.add(function)
            self._kinds.add(kind)
            yield self._channel(key, channel, function, kind)

    def _channel(self, key: str, channel: Mapping[str, Any], function: str, kind: str) -> _Channel:
        received, sent = self._payloads(key, "send") or "unknown", self._payloads(key, "receive")
        offered = [name for feature in channel.get("x-hub", {}) for name in _offered(channel, feature)]
        members = ["hub", "name", "subscribe", *(["publish"] if sent else []), *offered]
        kinds = received if sent in ("", received) else f"{received}, {sent}"
        definition = f"Pick<Channel<{kinds}>, {union(map(literal, members))}>"
        address = str(channel["address"])
        return _Channel(function, kind, definition, address, self._parameters(channel, address))

    def _payloads(self, key: str, action: str) -> str:
        """What may be in a channel, of all operations with `action`; empty without one."""
        messages = self._document["channels"][key]["messages"]
        names = [
            _last(message)
            for operation in self._document.get("operations", {}).values()
            if operation["action"] == action and _last(operation["channel"]) == key and "reply" not in operation
            for message in operation["messages"]
        ]
        return union(self._types.text(messages[name]["payload"]) for name in names) if names else ""

    def _parameters(self, channel: Mapping[str, Any], address: str) -> str:
        known = channel.get("parameters", {})
        names = dict.fromkeys(re.findall(r"\{([^{}]*)\}", address))
        fields = [f"{member(name)}: {self._parameter(known.get(name, {}))}" for name in names]
        return f"{{ {'; '.join(fields)} }}" if fields else ""

    def _parameter(self, parameter: Mapping[str, Any]) -> str:
        """A whole number, a choice, or a text: other numbers have no one spelling."""
        schema = parameter.get("x-schema", {"enum": parameter["enum"]} if "enum" in parameter else {})
        if "enum" in schema or "const" in schema or schema.get("type") in ("integer", "boolean"):
            return self._types.text(schema)
        return "string"

    def _calls(self) -> Iterator[_Call]:
        for operation in self._document.get("operations", {}).values():
            if "reply" in operation:
                method = str(operation.get("x-method") or operation["title"])
                messages = self._document["channels"][_last(operation["channel"])]["messages"]
                request = union(self._types.text(messages[_last(each)]["payload"]) for each in operation["messages"])
                answers = operation["reply"]["messages"]
                yield _Call(
                    method, request, union(self._types.text(messages[_last(each)]["payload"]) for each in answers)
                )

    # What is written

    def _interface(self) -> str:
        lines = [
            f"{comment([each.address], '  ')}  readonly {each.function}: {each.signature};\n" for each in self.channels
        ]
        calls = [f"    readonly {member(each.method)}: {each.signature};\n" for each in self.calls]
        about = comment([f"The channels and calls of {self._document['info']['title']}."])
        body = ["  readonly hub: Hub;\n", *lines, *_block("  readonly rpc: ", calls, "};\n")]
        return f"{about}export interface Client {{\n{''.join(body)}}}\n"

    def _factory(self) -> str:
        lines = [f"    {each.function}: {each.implementation},\n" for each in self.channels]
        calls = [f"      {member(each.method)}: {each.implementation},\n" for each in self.calls]
        body = ["    hub,\n", *lines, *_block("    rpc: ", calls, "},\n")]
        about = comment(
            ['`const client = createClient(new Hub("/connection/websocket"))`; whoever makes it connects it.']
        )
        return f"{about}export function createClient(hub: Hub): Client {{\n  return {{\n{''.join(body)}  }};\n}}\n"


def _block(head: str, lines: list[str], end: str) -> list[str]:
    indent = " " * (len(head) - len(head.lstrip()))
    return [f"{head}{{\n", *lines, f"{indent}{end}"] if lines else [f"{head}{{{end}"]


def _template(address: str) -> str:
    """`chat:{room}` as a template literal."""
    parts = re.split(r"\{([^{}]*)\}", address)
    texts = [_placeholder(part) if place % 2 else _verbatim(part) for place, part in enumerate(parts)]
    return f"`{''.join(texts)}`"


def _placeholder(name: str) -> str:
    return f"${{Channel.part(parameters[{literal(name)}])}}"


def _verbatim(text: str) -> str:
    return re.sub(r"[`$]", r"\\\g<0>", literal(text)[1:-1])


def _is_untyped(channel: Mapping[str, Any]) -> bool:
    return any(tag.get("name") == "untyped" for tag in channel.get("tags", ()))


def _offered(channel: Mapping[str, Any], feature: str) -> tuple[str, ...]:
    return _FEATURES.get(feature, ()) if channel["x-hub"][feature] else ()


def _last(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]
