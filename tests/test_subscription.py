"""What a subscriber gets of what it wishes, and how it is told: by options, wishes and permissions."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from hub.authority import Grant
from hub.errors import Disconnects, Ended, Errors, Refused
from hub.namespaces import ChannelOptions
from hub.protocol import tags
from hub.protocol.commands import Subscribe
from hub.protocol.forms import JsonForm
from hub.protocol.stream import Recovery, Stream
from hub.subscription import Plan, _result, plan, ttl
from hub.types import DataKind, HistoryOptions, Publication, StreamPosition

KEPT: dict[str, Any] = {"history_size": 10, "history_ttl": 60}
FILTER = {"key": "k", "cmp": "eq", "val": "1"}
SINCE = StreamPosition(3, "xyz")
TOP = StreamPosition(7, "xyz")


def allowing(*what: str) -> Callable[[str], bool]:
    """Permissions: for these only, if any are named."""
    return lambda asked: not what or asked in what


def all_of(*names: str) -> Iterator[dict[str, bool]]:
    """Every combination of them being on and off."""
    for values in itertools.product([False, True], repeat=len(names)):
        yield dict(zip(names, values, strict=True))


# Plans


def granted(kept: bool, options: dict[str, bool], wish: dict[str, bool], permitted: bool, what: str) -> bool:
    """What relies on a history is forced for all, or allowed to those who wish it and may read the history."""
    wished = wish["recoverable" if what == "recovery" else "positioned"]
    return kept and (options[f"force_{what}"] or (options[f"allow_{what}"] and wished and permitted))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("permitted", [True, False])
def test_positions_and_recovery(kept: bool, permitted: bool) -> None:
    """Recovery brings positions with it; what a client asks to recover counts only where it is recovered."""
    may = allowing() if permitted else allowing("presence")
    for switches in all_of("force_recovery", "allow_recovery", "force_positioning", "allow_positioning"):
        options = ChannelOptions(**KEPT, **switches) if kept else ChannelOptions()
        for wish in all_of("recoverable", "positioned", "recover"):
            planned = plan(Subscribe("a", offset=SINCE.offset, epoch=SINCE.epoch, **wish), options, may)
            recoverable = granted(kept, switches, wish, permitted, "recovery")
            positioned = recoverable or granted(kept, switches, wish, permitted, "positioning")
            assert (planned.recoverable, planned.form.positioned) == (recoverable, positioned)
            assert planned.since == (SINCE if recoverable and wish["recover"] else None)


@pytest.mark.parametrize("permitted", [True, False])
def test_joins_and_leaves(permitted: bool) -> None:
    """Where they are announced at all: to everybody if that is forced, else to who wishes and may see the presence."""
    may = allowing() if permitted else allowing("history")
    for options in all_of("join_leave", "force_push_join_leave"):
        for wish in (True, False):
            planned = plan(Subscribe("a", join_leave=wish), ChannelOptions(**options), may)
            wanted = options["force_push_join_leave"] or (wish and permitted)
            assert planned.form.join_leave == (options["join_leave"] and wanted)


def test_deltas() -> None:
    """For who asks, where they are allowed and positions make sure of the base."""
    for allowed, positioned, wish in itertools.product([False, True], [False, True], ["", "fossil"]):
        types = ("fossil",) if allowed else ()
        options = ChannelOptions(**KEPT, force_positioning=positioned, allowed_delta_types=types)
        form = plan(Subscribe("a", delta=wish), options, allowing()).form
        assert form.delta == (allowed and positioned and wish == "fossil")
        assert form.based is False


@pytest.mark.parametrize("options", [ChannelOptions(), ChannelOptions(**KEPT, allowed_delta_types=("fossil",))])
def test_deltas_of_another_kind(options: ChannelOptions) -> None:
    """End the connection, wherever they are asked for: the client would not understand what it gets."""
    with pytest.raises(Ended) as caught:
        plan(Subscribe("a", delta="vcdiff"), options, allowing())
    assert caught.value.disconnect is Disconnects.BAD_REQUEST


FILTERED = ChannelOptions(allow_tags_filter=True)


def test_filters() -> None:
    """Where they are allowed; no filter is none, in both kinds of namespaces."""
    assert plan(Subscribe("a", tf=FILTER), FILTERED, allowing()).form == JsonForm(tags_filter=tags.parse(FILTER))
    for options in (FILTERED, ChannelOptions()):
        assert plan(Subscribe("a"), options, allowing()).form == JsonForm()


@pytest.mark.parametrize(
    ("tf", "options", "cause"),
    [
        (FILTER, ChannelOptions(), "the namespace has no allow_tags_filter"),
        ({}, ChannelOptions(), "the namespace has no allow_tags_filter"),
        ({}, FILTERED, "tf: a tags filter compares a key"),
        ([], FILTERED, "tf: a tags filter's node is not an object"),
        (0, FILTERED, "tf: a tags filter's node is not an object"),
    ],
)
def test_filters_that_are_refused(tf: Any, options: ChannelOptions, cause: str) -> None:
    """With 107 and the cause."""
    with pytest.raises(Refused, match=cause) as caught:
        plan(Subscribe("a", tf=tf), options, allowing())
    assert caught.value.error is Errors.BAD_REQUEST


@pytest.mark.parametrize(("flag", "reject"), [(0, False), (1, False), (2, True), (3, True), (-1, True), (4, False)])
def test_flags(flag: int, reject: bool) -> None:
    """The second bit: an error is wanted if something was missed. Who recovers nothing has missed nothing."""
    options = ChannelOptions(**KEPT, force_recovery=True)
    assert plan(Subscribe("a", flag=flag, recover=True), options, allowing()).reject_unrecovered is reject
    assert plan(Subscribe("a", flag=flag), options, allowing()).reject_unrecovered is False


# Results


def stream() -> Stream:
    """It stands at `TOP`."""
    found = Stream(HistoryOptions(size=10, ttl=60, meta_ttl=600), 10)
    found.offset, found.epoch = TOP
    return found


def told(
    options: ChannelOptions, recovery: Recovery | None = None, grant: Grant | None = None, **wish: Any
) -> dict[str, Any]:
    """The reply, as the client reads it."""
    planned: Plan = plan(Subscribe("a", **wish), options, allowing())
    here = stream() if options.history else None
    result: dict[str, Any] = json.loads(
        msgspec.json.encode(_result(planned, grant or Grant(options=options), here, recovery))
    )
    return result


def pubs(*offsets: int) -> list[Publication]:
    """Numbered; their tag is whether they are odd."""
    return [
        Publication(b"%d" % n, DataKind.JSON, tags={"k": str(n % 2)}, offset=n, epoch="xyz", delta=True)
        for n in offsets
    ]


def offsets(result: dict[str, Any]) -> list[int]:
    return [publication["offset"] for publication in result.get("publications", ())]


RECOVERED = ChannelOptions(**KEPT, force_recovery=True)
POSITIONED = ChannelOptions(**KEPT, force_positioning=True)
HERE = {"positioned": True, "epoch": "xyz", "offset": 7}


@pytest.mark.parametrize(
    ("options", "reply"),
    [
        (ChannelOptions(), {}),
        (ChannelOptions(**KEPT), {}),
        (POSITIONED, HERE),
        (RECOVERED, {**HERE, "recoverable": True}),
    ],
)
def test_newcomers(options: ChannelOptions, reply: dict[str, Any]) -> None:
    """Hear where the channel stands if they rely on it, else nothing."""
    assert told(options) == reply


@pytest.mark.parametrize("missed", [(), (4, 5, 6, 7)])
def test_who_has_recovered(missed: tuple[int, ...]) -> None:
    """Gets what it missed, and its own offset back: by applying the publications it gets ahead."""
    result = told(RECOVERED, Recovery(pubs(*missed)), recover=True, offset=3, epoch="xyz")
    assert offsets(result) == list(missed)
    result.pop("publications", None)
    assert result == {**HERE, "offset": 3, "recoverable": True, "recovered": True, "was_recovering": True}


def test_who_recovers_from_the_beginning() -> None:
    """Offset 0 is left out of the reply."""
    result = told(RECOVERED, Recovery(pubs(1)), recover=True)
    assert "offset" not in result
    assert result["recovered"] is True
    assert result["publications"] == [{"data": 1, "offset": 1, "epoch": "xyz", "tags": {"k": "1"}}]


def test_who_has_not_recovered() -> None:
    """Hears that it tried, and goes on from where the channel stands; with the flag it is refused."""
    wish: dict[str, Any] = {"recover": True, "offset": 3, "epoch": "old"}
    assert told(RECOVERED, Recovery(None), **wish) == {**HERE, "recoverable": True, "was_recovering": True}
    with pytest.raises(Refused) as caught:
        told(RECOVERED, Recovery(None), flag=3, **wish)
    assert caught.value.error is Errors.UNRECOVERABLE_POSITION
    assert told(RECOVERED, Recovery([]), flag=3, **wish)["recovered"] is True


CACHE = ChannelOptions(**KEPT, force_recovery=True, force_recovery_mode="cache", auto_cache_recover=True)
LOOSE_CACHE = ChannelOptions(**KEPT, force_recovery_mode="cache", auto_cache_recover=True)


@pytest.mark.parametrize("wish", [{}, {"recover": True, "offset": 3, "epoch": "xyz"}])
def test_the_latest_is_all_that_matters(wish: dict[str, Any]) -> None:
    """In cache mode the latest publication is the state, for newcomers too, and the position is behind it."""
    known = {**HERE, "recoverable": True, "was_recovering": True}
    result = told(CACHE, Recovery(pubs(7)), **wish)
    assert offsets(result) == [7]
    result.pop("publications")
    assert result == {**known, "recovered": True}
    assert told(CACHE, Recovery([]), **wish) == {**known, "recovered": True}
    assert told(CACHE, Recovery(None), **wish) == known


def test_newcomers_are_not_refused() -> None:
    """If nothing is cached: they have missed nothing, whatever they flag."""
    assert told(CACHE, Recovery(None), flag=3) == {**HERE, "recoverable": True, "was_recovering": True}


def test_the_latest_without_positions() -> None:
    """Newcomers get it and no position, as they rely on none."""
    result = told(LOOSE_CACHE, Recovery(pubs(7)))
    assert offsets(result) == [7]
    assert set(result) == {"publications", "recovered", "was_recovering"}


def test_recovered_publications_have_the_subscribers_form() -> None:
    """Filtered as live ones are; with deltas the data is a string, and whole, for there is no base yet."""
    filtered = ChannelOptions(**KEPT, force_recovery=True, allow_tags_filter=True)
    wish: dict[str, Any] = {"recover": True, "offset": 3, "epoch": "xyz"}
    assert offsets(told(filtered, Recovery(pubs(4, 5, 6, 7)), tf=FILTER, **wish)) == [5, 7]
    patched = ChannelOptions(**KEPT, force_recovery=True, allowed_delta_types=("fossil",))
    result = told(patched, Recovery(pubs(4, 5)), delta="fossil", **wish)
    assert result["delta"] is True
    assert [(p["data"], "delta" in p) for p in result["publications"]] == [("4", False), ("5", False)]


@pytest.mark.parametrize("data", [b"", b"null", b'{"a":1}'])
def test_what_the_grant_says(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Its data, and when it ends."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    options = ChannelOptions()
    result = told(options, grant=Grant(options=options, data=data, expire_at=1060.0))
    assert (result.pop("expires"), result.pop("ttl")) == (True, 60)
    assert result == ({"data": json.loads(data)} if data else {})


@pytest.mark.parametrize(
    ("expire_at", "seconds"),
    [
        *[(0, 0), (1060.0, 60), (1059.01, 60), (1000.5, 1), (1000.0, 1), (1.0, 1)],
        # The protocol has 32 bits for it.
        *[(2**32 + 998, 2**32 - 2), (2**32 + 1000, 2**32 - 1), (1e300, 2**32 - 1), (math.inf, 2**32 - 1)],
    ],
)
def test_times_to_live(monkeypatch: pytest.MonkeyPatch, expire_at: float, seconds: int) -> None:
    """Whole seconds, rounded up: 0 would mean never, so what is over has one more."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert ttl(expire_at) == seconds
