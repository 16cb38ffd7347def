"""The opening handshake: who is let in, what is answered, and what an application is told of the request."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from uvicorn.config import Config
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from hub.handshake import Answer, _key_of_usual, answer, http_response, request_in, request_of, websocket_scope

GOOD = {
    b"Host": b"h",
    b"Upgrade": b"websocket",
    b"Connection": b"keep-alive, Upgrade",
    b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version": b"13",
}


def request(path: bytes = b"/", method: bytes = b"GET", **changed: bytes | None) -> bytes:
    """A handshake as uvicorn rebuilds it; `None` takes a field out, `Sec_WebSocket_Key` means Sec-WebSocket-Key."""
    fields = dict(GOOD)
    for name, value in changed.items():
        key = name.replace("_", "-").encode()
        fields.pop(key, None)
        if value is not None:
            fields[key] = value
    head = b"".join(b"%s: %s\r\n" % field for field in fields.items())
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method, path, head)


def configured(**options: Any) -> Config:
    config = Config(lambda: None, log_config=None, **{"server_header": False, **options})
    config.load()
    return config


def answered(data: bytes, config: Config, *, compression: bool = False) -> Answer:
    return answer(request_in(data), config, compression=compression)


class Sock:
    """What uvicorn asks a transport's socket."""

    def getpeername(self) -> tuple[str, int]:
        return ("10.0.0.1", 1234)

    def getsockname(self) -> tuple[str, int]:
        return ("10.0.0.2", 80)


class Transport(asyncio.Transport):
    """What uvicorn asks a transport."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__({"socket": Sock(), "sslcontext": object() if tls else None})


def scope_of(data: bytes, *, tls: bool = False, **options: Any) -> dict[str, Any]:
    config = configured(**options)
    parsed = request_in(data)
    assert parsed is not None
    assert answer(parsed, config).response.status_code == 101
    return websocket_scope(parsed, config, Transport(tls=tls))


def test_the_answer() -> None:
    """101 with the key of RFC 6455 §1.3, no extension, and the headers that uvicorn was told to send."""
    offer = request(Sec_WebSocket_Extensions=b"permessage-deflate", Sec_WebSocket_Protocol=b"a, b")
    response, compression = answered(offer, configured(headers=[("X-Served-By", "hub")], server_header=True))
    assert response.status_code == 101
    assert response.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert response.headers["x-served-by"] == "hub"
    assert response.headers["server"] == "uvicorn"
    assert "Sec-WebSocket-Extensions" not in response.headers  # off by default
    assert compression == 0
    assert "Sec-WebSocket-Protocol" not in response.headers  # the application chooses


# For each field what may stand there; the first makes a handshake that is right beyond doubt.
VARIANTS: dict[str, list[list[str]]] = {
    "Upgrade": [["websocket"], ["WebSocket"], ["h2c"], ["websocket", "websocket"], ["websocket, h2c"], []],
    "Connection": [
        ["Upgrade"],
        ["keep-alive, Upgrade"],
        ["upgrade"],
        ["close"],
        ["Upgrade", "close"],
        ["Up grade"],
        [],
    ],
    "Sec-WebSocket-Version": [["13"], ["8"], ["13", "13"], ["13 "], []],
    "Sec-WebSocket-Key": [
        *(["dGhlIHNhbXBsZSBub25jZQ=="], ["c2hvcnQ="], ["dGhlIHNhbXBsZSBub25jZQ==" * 2], ["dGhlIHNhbXBsZSBub25jZQ== "]),
        *(["dGhlIHNhbXBsZSBub25jZR=="], ["dGhlIHNhbXBsZSBub25jZQ"], ["dGhlIHNhbXBsZSBub25j-_=="], [], ["a", "b"]),
    ],
    "Origin": [["http://a"], [], ["http://a", "http://b"]],
    "Sec-WebSocket-Protocol": [[], ["a, b"], ["a b"]],
    "Sec-WebSocket-Extensions": [[], ["permessage-deflate"], ["permessage-deflate; x=y"], [";"]],
}


@pytest.mark.parametrize("compression", [False, True])
def test_our_own_answer_is_that_of_websockets(compression: bool) -> None:
    """Any three fields that are unusual together: whom we let in without asking websockets, it lets in the same way."""
    config, by_ourselves = configured(), 0
    for some in itertools.combinations(VARIANTS, 3):
        for values in itertools.product(*(VARIANTS[name] for name in some)):
            given = {name: usual[0] for name, usual in VARIANTS.items()} | dict(zip(some, values, strict=True))
            asked = Request("/", Headers([(name, value) for name, each in given.items() for value in each]))
            if _key_of_usual(asked, compression) is None:
                continue
            by_ourselves += 1
            ours = answer(asked, config, compression=compression)
            theirs = ServerProtocol().accept(asked)
            del theirs.headers["Date"]
            assert (ours.response.serialize(), ours.compression) == (theirs.serialize(), 0), given
    assert by_ourselves > 100


@pytest.mark.parametrize(
    ("method", "protocol"),
    [("POST", "HTTP/1.1"), ("GET", "HTTP/1.0"), ("GET", "HTTP/2")],
)
def test_what_is_not_usual_is_left_to_websockets(method: str, protocol: str) -> None:
    asked = Request("/", Headers([(name.decode(), value.decode()) for name, value in GOOD.items()]))
    assert _key_of_usual(asked, compression=False) is not None
    asked.method, asked.protocol = method, protocol
    assert _key_of_usual(asked, compression=False) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(request(method=b"POST"), 405, id="method"),
        pytest.param(request(Connection=b"close"), 426, id="connection"),
        pytest.param(request(Upgrade=b"h2c"), 426, id="upgrade"),
        pytest.param(request(Sec_WebSocket_Key=None), 400, id="no-key"),
        pytest.param(request(Sec_WebSocket_Key=b"c2hvcnQ="), 400, id="short-key"),
        pytest.param(request(Sec_WebSocket_Key=b"\xff\xfe"), 400, id="binary-key"),
        pytest.param(request(Sec_WebSocket_Version=b"8"), 400, id="version"),
        pytest.param(request(Sec_WebSocket_Version=None), 400, id="no-version"),
        pytest.param(request(Origin=b"a").replace(b"Origin: a", b"Origin: a\r\nOrigin: b"), 400, id="two-origins"),
        pytest.param(request(b"/\xff"), 400, id="path-not-ascii"),
        pytest.param(request(b"/ /"), 400, id="space-in-path"),
        pytest.param(request(Content_Length=b"5"), 400, id="body"),
        pytest.param(request(Transfer_Encoding=b"chunked"), 400, id="chunked-body"),
        pytest.param(request(X=b"y" * 9000), 400, id="long-line"),
        pytest.param(request()[:-2], 400, id="unfinished"),
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"\x16\x03\x01" * 100, 400, id="tls"),
    ],
)
def test_refusals(data: bytes, status: int) -> None:
    """What is not a handshake gets the status that says why, and no exception comes out."""
    response, _ = answered(data, configured(), compression=True)
    assert response.status_code == status
    assert response.body


NO_CONTEXT = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "agreed", "bits"),
    [
        pytest.param(b"permessage-deflate; client_max_window_bits", NO_CONTEXT, 15, id="browser"),
        pytest.param(
            b"permessage-deflate; server_max_window_bits=10, permessage-deflate",
            f"{NO_CONTEXT}; server_max_window_bits=10",
            10,
            id="first",
        ),
        pytest.param(b'permessage-deflate; server_max_window_bits="9"', f"{NO_CONTEXT}; server_max_window_bits=9", 9),
        pytest.param(b"permessage-deflate; server_max_window_bits=8, permessage-deflate", NO_CONTEXT, 15, id="second"),
        pytest.param(b"x-webkit-deflate-frame, permessage-deflate", NO_CONTEXT, 15, id="after-a-stranger"),
        pytest.param(b"permessage-deflate; server_max_window_bits=8", None, 0, id="cannot"),
        pytest.param(b"permessage-deflate; mystery", None, 0, id="mystery"),
        pytest.param(b"permessage-bzip2", None, 0, id="stranger"),
    ],
)
def test_compression(offers: bytes, agreed: str | None, bits: int) -> None:
    """The first offer that can be met is taken, once; who makes none that can gets a connection without."""
    config = configured()
    response, compression = answered(request(Sec_WebSocket_Extensions=offers), config, compression=True)
    assert response.status_code == 101
    assert response.headers.get("Sec-WebSocket-Extensions") == agreed
    assert compression == bits
    in_two = request(Sec_WebSocket_Extensions=offers.replace(b", ", b"\r\nSec-WebSocket-Extensions: "))
    assert answered(in_two, config, compression=True).compression == bits


def test_no_offer() -> None:
    """Compression is the client's wish."""
    response, compression = answered(request(), configured(), compression=True)
    assert (response.status_code, compression) == (101, 0)
    assert "Sec-WebSocket-Extensions" not in response.headers


def test_an_offer_that_cannot_be_parsed() -> None:
    """It is refused, with the reason."""
    response, compression = answered(request(Sec_WebSocket_Extensions=b"permessage;;"), configured(), compression=True)
    assert (response.status_code, compression) == (400, 0)
    assert b"Sec-WebSocket-Extensions" in bytes(response.body or b"")


@pytest.mark.parametrize("name", ["Connection", "Upgrade", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"])
def test_lists_have_a_limit(name: str) -> None:
    """In one field or in many; what is not parsed may be long."""
    part = (name.lower().encode(), b"a," * 1000 + b"a")
    fields = [(key.lower(), value) for key, value in GOOD.items()]
    response, _ = answer(request_of(b"/", [*fields, *[part] * 5]), configured(), compression=True)
    assert (response.status_code, response.body) == (400, b"The WebSocket handshake's lists are too long.\n")
    long = [(b"cookie", b"c" * 60_000), (b"authorization", b"a" * 3000)]
    assert answer(request_of(b"/", fields + long), configured()).response.status_code == 101


def test_a_request_that_was_parsed_before() -> None:
    """What the HTTP class has read by then is the same request."""
    url, fields = b"/a%20b?c=%31", [(b"host", b"h"), (b"x", b"caf\xe9"), (b"cookie", b"a=b"), (b"cookie", b"c=d")]
    data = b"GET %s HTTP/1.1\r\n%s\r\n" % (url, b"".join(b"%s: %s\r\n" % field for field in fields))
    parsed = [(name, value + b" \t") for name, value in fields]  # as httptools has it
    once, anew = request_of(url, parsed), request_in(data)
    assert anew is not None
    assert (once.path, list(once.headers.raw_items())) == (anew.path, list(anew.headers.raw_items()))


def test_scope() -> None:
    """As the ASGI specification has it: path decoded, all else as it came."""
    scope = scope_of(request(b"/a%20b/%C3%BC?token=%31&x", Sec_WebSocket_Protocol=b"a,b , c", X_Name=b"caf\xe9"))
    assert scope["type"] == "websocket"
    assert scope["scheme"] == "ws"
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b/ü", b"/a%20b/%C3%BC", b"token=%31&x")
    assert scope["subprotocols"] == ["a", "b", "c"]
    assert (b"x-name", b"caf\xe9") in scope["headers"]
    assert (scope["client"], scope["server"]) == (("10.0.0.1", 1234), ("10.0.0.2", 80))


def test_scope_behind_a_prefix_and_tls() -> None:
    """`--root-path` is part of the path, and TLS of the scheme."""
    scope = scope_of(request(b"/ws"), tls=True, root_path="/rt")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/rt", "/rt/ws", b"/rt/ws")
    assert scope["scheme"] == "wss"


def test_header_values_of_older_websockets() -> None:
    """Before version 17 they were decoded with surrogates; the application gets the same bytes."""
    headers = Headers()
    headers.set_insecure("X-Name", b"caf\xe9".decode("ascii", "surrogateescape"))
    scope = websocket_scope(Request("/", headers), configured(), Transport())
    assert scope["headers"] == [(b"x-name", b"caf\xe9")]


def test_http_response() -> None:
    """Complete and the connection's last; what the application says stands, except that it would stay open."""
    assert http_response(403, Headers(), b"") == (
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\n\r\n"
    )
    headers = Headers([("content-type", "text/html"), ("Connection", "keep-alive"), ("Set-Cookie", "a"), ("X", "é")])
    headers["Set-Cookie"] = "b"
    response = http_response(499, headers, b"<p>")
    assert response.startswith(b"HTTP/1.1 499 \r\ncontent-type: text/html\r\nSet-Cookie: a\r\nX: \xe9\r\nSet-Cookie: b")
    assert response.endswith(b"Content-Length: 3\r\nConnection: close\r\n\r\n<p>")
