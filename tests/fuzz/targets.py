"""What is fuzzed: everything that decodes bytes from outside.

A target says what it has seen, in short texts: decoders in C have no coverage of their own, so a new text counts as new
coverage. What it says must not differ from input to input without need, or the corpus grows without end.
"""

from __future__ import annotations

from . import payloads, seeds, streams, tokens
from .target import Target

__all__ = ["TARGETS"]

JSON = ("{", "}", '{"', '":', '":"', '","', "[]", "{}", "null", "true", "1e9", "-1", "\\ud800", "\\u0000", "\n")
COMMANDS = """
    id connect subscribe unsubscribe publish presence presence_stats history ping send rpc refresh sub_refresh channel
    data token recover epoch offset limit since reverse subs name version positioned recoverable join_leave delta tf
    flag type method 18446744073709551616 4294967296
    """.split()
FILTERS = """
    op and or not nodes key cmp val vals eq neq sw ew ct gt gte lt lte in nin ex nex k 5 1e9999 +.5
    """.split()
CLAIMS = """
    sub exp nbf iat jti iss aud info b64info data b64data expire_at channels subs meta channel client override presence
    value id hub app 1900000000 e30=
    """.split()
ALGORITHMS = '{"alg":" none HS256 HS384 HS512 RS256 ES256 EdDSA kid crit typ JWT'.split()
HEADERS = (
    *("GET / HTTP/1.1\r\n", "HEAD ", "Host: h\r\n", "Upgrade: websocket\r\n", "Connection: Upgrade\r\n", "\r\n\r\n"),
    *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Sec-WebSocket-Version: 13\r\n", "Origin: ", "\r\n "),
    *("Sec-WebSocket-Extensions: permessage-deflate", "; server_max_window_bits=", "; client_max_window_bits", "10"),
    *("; server_no_context_takeover", "; client_no_context_takeover", "Sec-WebSocket-Protocol: ", "Content-Length: "),
    *("Transfer-Encoding: chunked\r\n", "%ff", '"'),
)

TARGETS = {
    "frames": Target(streams.stream, seeds.FRAMES, (b"\x81\x80", b"\x01\x80", b"\x80\x80", b"\x88\x82", b"\x89\x80")),
    "inflating": Target(streams.deflated, seeds.INFLATING, (b"\xc1\x80", b"\x41\x80", b"\x80\x80", b"\0\0\xff\xff")),
    "messages": Target(streams.messages, seeds.MESSAGES, longest=2048),
    "handshake": Target(streams.handshake, seeds.HANDSHAKES, HEADERS, longest=1024),
    "commands": Target(payloads.command, seeds.COMMANDS, (*JSON, *COMMANDS), longest=4096),
    "filters": Target(payloads.filters, seeds.FILTERS, (*JSON, *FILTERS)),
    "envelope": Target(
        payloads.payload, seeds.PAYLOADS, (*JSON, "p1:e:", "m\0\0\0\2{}", "d", "j\0", "t\0", "b\0", "+{")
    ),
    "server": Target(payloads.server_info, seeds.SERVERS, ("role:", "slave", "master", "master_replid:", "\r\n")),
    "delta": Target(payloads.delta, seeds.DELTAS, ("\n", "@", ",", ":", ";", "é", "è")),
    "forged": Target(tokens.forged, seeds.FORGED, (*JSON, *CLAIMS, *ALGORITHMS)),
    "claims": Target(tokens.claims, seeds.SIGNED, (*JSON, *CLAIMS)),
}
