"""The TypeScript client: it compiles, refuses what is wrong, and works in Node.js against a hub that runs."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hub import Hub, Settings
from hub.asyncapi import Place, describe
from hub.codegen import typescript as write
from hub.errors import ConfigError
from tests.support import typed_app, typescript
from tests.support.needs import node
from tests.support.uvicorn_server import serving

PLACE = Place(host="example.org", path="/connection/websocket", secure=True)

# Two clients that talk, and what they heard; each mistake is one that the compiler sees.
PROGRAM = """
import { Channel, createClient, type Message, type Price } from "./client.js";
import { Hub, HubError } from "./hub.js";

const next = <T>(wait: (resolve: (value: T) => void) => void): Promise<T> => new Promise(wait);

export async function main(url: string): Promise<Record<string, unknown>> {
  const hub = new Hub(url);
  const { chat, prices, newsAll, articles, rpc } = createClient(hub);
  await hub.connect();

  const kitchen = chat({ room: "kitchen" });
  const heard: Message[] = [];
  let told: (message: Message) => void;
  const first = next<Message>((resolve) => (told = resolve));
  const subscription = kitchen.subscribe((message) => {
    heard.push(message);
    told(message);
  });
  await subscription.ready();
  await kitchen.publish({ text: "hello", author: { name: "Ann" } });
  const { text, author } = await first;
  const age: number | null | undefined = author.age;
  const { publications } = await kitchen.history();
  const kept: string[] = publications.map(({ data }) => data.text);
  const present = Object.keys(await kitchen.presence()).length;
  const { clients } = await kitchen.presenceStats();

  const price = prices({ id: "3fa85f64-5717-4562-b3fc-2c963f66afa6" });
  const amounts = next<string | number>((resolve) => price.subscribe((each) => resolve(each["the amount"])));
  await hub.subscription(price.name)?.ready();
  await price.publish({ pair: ["BTC", "EUR"], "the amount": 7 });

  const renamed = await rpc.rename({ name: "Bob" });
  const before: string = renamed.before;
  const time: string = await rpc["server/time"]();
  const { items } = await rpc.pages({ items: [1, 2] });
  const nothing: null = await rpc.forget();
  const same = await rpc.anything({ a: 1 });

  // @ts-expect-error No author.
  const refused = await kitchen.publish({ text: "hello" }).catch((error: HubError) => [error.code, error.message]);
  const forbidden = await chat({ room: "closed" })
    .publish({ text: "hello", author: { name: "Ann" } })
    .catch((error: HubError) => error.code);
  const bad: string[] = [];
  for (const room of ["", "a:b"]) {
    try {
      chat({ room });
    } catch (error) {
      bad.push((error as RangeError).message);
    }
  }
  const answers = { text, age, heard: heard.length, kept, present, clients, before, renamed, time };
  const amount = await amounts;
  const article = articles({ section: "news", number: 7 });
  const names = { bad, article: article.name, news: newsAll().name };
  return { ...answers, ...names, amount, items, nothing, same, refused, forbidden };
}

export function mistakes(hub: Hub): void {
  const { chat, articles, newsAll, prices, rpc } = createClient(hub);
  // @ts-expect-error A parameter is missing.
  chat({});
  // @ts-expect-error A parameter is not one of the choices.
  articles({ section: "weather", number: 1 });
  // @ts-expect-error A parameter is a number.
  articles({ section: "news", number: "1" });
  // @ts-expect-error Clients do not publish here.
  newsAll().publish({});
  // @ts-expect-error There is no history.
  newsAll().history();
  // @ts-expect-error There are parameters.
  newsAll({ room: "kitchen" }).subscribe;
  // @ts-expect-error The kind is not one of the literals.
  chat({ room: "kitchen" }).publish({ text: "a", author: { name: "Ann" }, kind: "sung" });
  // @ts-expect-error Clients do not compute the name.
  const price: Price = { pair: ["a", "b"], "the amount": "1" };
  prices({ id: "1" }).publish(price);
  // @ts-expect-error The message is no text.
  chat({ room: "kitchen" }).subscribe((message: string) => message);
  // @ts-expect-error Another body.
  rpc.rename({ title: "Bob" });
  // @ts-expect-error It takes nothing.
  rpc.forget(1);
  // @ts-expect-error There is no such method.
  rpc.remove();
  // @ts-expect-error What is read belongs to the client.
  rpc.forget = rpc.forget;
  void new Channel<Message>(hub, "chat:kitchen");
}
"""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe(typed_app.hub, PLACE)


@pytest.mark.timeout(300)
async def test_a_program_with_it(document: dict[str, Any], tmp_path: Path) -> None:
    """It compiles as strictly as can be, and talks with a hub as it is told to."""
    typescript.packages()
    typescript.program(tmp_path, client=write(document), program=PROGRAM)
    assert await asyncio.to_thread(typescript.compiled, tmp_path) == []
    async with serving(typed_app.make()[0]) as (port, _):
        said = await run(tmp_path / "program.js", f"ws://127.0.0.1:{port}/rt/connection/websocket")
    bad = "is empty or has a colon: it cannot be part of a channel's name"
    assert said == {
        "text": "hello",
        "heard": 1,
        "kept": ["hello"],
        "present": 1,
        "clients": 1,
        "amount": 7,
        "before": "Ann",
        "renamed": {"before": "Ann", "after": "Bob"},
        "time": "2026-01-31T00:00:00Z",
        "items": ["1", "2"],
        "nothing": None,
        "same": {"a": 1},
        "refused": [107, "data: author: Field required"],
        "forbidden": 103,
        "bad": [f'"" {bad}', f'"a:b" {bad}'],
        "article": "articles:news:7",
        "news": "news:all",
    }


async def run(program: Path, url: str) -> Any:
    """What `main(url)` of a compiled program returns, in Node.js."""
    command = (node(), str(typescript.PACKAGES / "run.mjs"), str(program), url)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


def hostile() -> dict[str, Any]:
    """A document of somebody who wants to run a program of his own where the client is built."""
    evil = '"]; evil(); /* */ // ` ${evil()} \\ \n\u2028'
    hub = Hub(Settings())

    class Message(BaseModel):
        text: str

    hub.channel("a`\\:{room}", Message, allow_publish_for_client=True)
    hub.channel("hub:{evil}", Message)
    hub.channel("rpc:{evil}:{also}", Message)
    hub.channel("__proto__:a", Message)
    for name in (evil, "__proto__", "constructor", "class", "then"):
        hub.rpc(name)(lambda: None)
    document = copy.deepcopy(describe(hub, Place(host="h", path="/", secure=False, title=f"*/ {evil}")))
    schemas = document["components"]["schemas"]
    schemas["Message"]["description"] = f"*/ evil(); {evil}"
    schemas["Message"]["properties"][evil] = {"const": evil}
    schemas["Message"]["properties"]["more"] = {"enum": [evil, 1], "description": "*/"}
    schemas[evil] = {"type": "object", "properties": {"a": {"$ref": f"#/components/schemas/{evil}"}}}
    document["channels"][evil] = {**document["channels"]["a"], "address": f"x`${{{{evil}}{evil}:{{{evil}}}"}
    return document


@pytest.mark.timeout(300)
def test_nothing_in_a_document_is_taken_for_a_program(tmp_path: Path) -> None:
    """Names, texts and addresses are data, however they are written; it compiles, and `evil` is not known there."""
    typescript.packages()
    text = write(hostile(), imports="./hub.js")
    typescript.program(tmp_path, client=text, program='export { createClient } from "./client.js";')
    assert typescript.compiled(tmp_path) == []
    assert re.findall(r"readonly (\w+): \(parameters", text) == ["a", "hub2", "rpc2", "evilEvil"]
    assert '__proto__A: () => new Channel(hub, "__proto__:a")' in text


def test_it_imports_hub_js_from_where_it_is(document: dict[str, Any]) -> None:
    """Once, whatever the address is."""
    text = write(document, imports='@app/"hub"')
    assert re.findall(r"^} from (.*);$", text, re.MULTILINE) == ['"@app/\\"hub\\""']


def test_channels_without_a_model_are_left_out(document: dict[str, Any]) -> None:
    """There is nothing to say about them: `client.hub` has them."""
    assert "any" in document["channels"]
    assert not re.search(r"\bany: \(", write(document))


def test_an_application_without_declarations() -> None:
    """A client that has the connection."""
    text = write(describe(Hub(Settings()), PLACE))
    assert "export interface Client {\n  readonly hub: Hub;\n  readonly rpc: {};\n}" in text


def test_parameters_are_written_as_python_writes_them() -> None:
    """Whole numbers, truth and choices; anything else is a text."""
    hub = Hub(Settings())
    kinds = {"a": int, "b": bool, "c": float, "d": str}
    hub.channel("many:{a}:{b}:{c}:{d}", dict[str, int], parameters=kinds)
    assert "(parameters: { a: number; b: boolean; c: string; d: string }) => ManyChannel" in write(describe(hub, PLACE))
    assert hub.typed_channels[0](a=1, b=True, c=1.5, d="x").name == "many:1:True:1.5:x"


def test_other_documents_give_their_choices_only(document: dict[str, Any]) -> None:
    """AsyncAPI itself has `enum` for parameters."""
    other = copy.deepcopy(document)
    del other["channels"]["articles"]["parameters"]["section"]["x-schema"]
    del other["channels"]["articles"]["parameters"]["number"]["x-schema"]
    assert '(parameters: { section: "news" | "sport"; number: string }) => ArticlesChannel' in write(other)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "no AsyncAPI document of version 3"),
        ({"asyncapi": "2.6.0"}, "no AsyncAPI document of version 3"),
        ({"openapi": "3.1.0"}, "no AsyncAPI document of version 3"),
        ({"asyncapi": "3.0.0", "channels": []}, "not one that a hub writes"),
        ({"asyncapi": "3.0.0", "channels": {"a": {"address": "a:b"}}}, "not one that a hub writes"),
        (
            {"asyncapi": "3.0.0", "components": {"schemas": {"A": {"properties": 1}}}, "info": {}},
            "not one that a hub writes",
        ),
    ],
)
def test_other_documents_are_refused(document: dict[str, Any], text: str) -> None:
    """In a sentence."""
    with pytest.raises(ConfigError, match=text):
        write(document)
