"""What workers tell each other: user-targeted calls act on all of them, surveys ask all of them."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from . import __version__
from .authority import Authority
from .client import Client
from .clients import Clients, Connected
from .errors import Disconnect, Disconnects, Ended, Errors, HubError, Refused
from .handlers import subscribe_by_server
from .hub import HubCore
from .protocol.frames import may_be_sent
from .protocol.replies import RefreshResult, push
from .raw_sessions import RawSession, RawSessions
from .subscription import rename, ttl
from .tokens import Override, SubscribeGrant
from .types import StreamPosition, channel_name

__all__ = ["OWN", "HubNode", "NodeInfo"]

log: logging.Logger = logging.getLogger("hub.control")

T = TypeVar("T")
# What is ordered for a user concerns.
_Concerned: TypeAlias = "Connected | RawSession"

# Seconds that a survey waits for the other workers.
SURVEY_TIMEOUT = 2.0

# Begins the names of channels that the hub has for itself. No client, token or call can name one: it is a control
# character.
OWN = "\x1f"


class NodeInfo(Struct, kw_only=True):
    """One worker and what it has to do."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    # Seconds.
    uptime: int


class _Order(Struct, tag_field="do", omit_defaults=True, kw_only=True):
    """Something that every worker does."""


class _Targeted(_Order, kw_only=True):
    user: str
    client: str = ""


class _Subscribe(_Targeted, tag="subscribe", kw_only=True):
    channel: str
    info: bytes = b""
    data: bytes = b""
    override: Override = Override()
    since: tuple[int, str] | None = None
    expire_at: float = 0


class _Unsubscribe(_Targeted, tag="unsubscribe", kw_only=True):
    channel: str = ""


class _Disconnect(_Targeted, tag="disconnect", kw_only=True):
    # What a close frame can say.
    code: Annotated[int, Meta(ge=1000, le=4999)]
    reason: str
    whitelist: tuple[str, ...] = ()


class _Refresh(_Targeted, tag="refresh", kw_only=True):
    expired: bool = False
    expire_at: float = 0
    info: bytes = b""


class _Forget(_Order, tag="forget", kw_only=True):
    channel: str


class _Look(_Order, tag="look", kw_only=True):
    pass


class _Admit(_Order, tag="admit", kw_only=True):
    ticket: str
    # Seconds.
    lasts: float


class _Retire(_Order, tag="retire", kw_only=True):
    pass


class _Survey(_Order, tag="survey", kw_only=True):
    number: str
    node: str
    # "channels" or "info"; a glob for the first.
    kind: str
    pattern: str = ""


class _Answer(_Order, tag="answer", kw_only=True):
    number: str
    body: Raw


_encode = msgspec.json.encode
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    _Subscribe | _Unsubscribe | _Disconnect | _Refresh | _Forget | _Look | _Admit | _Retire | _Survey | _Answer
)


class HubNode(HubCore):
    """A hub that knows its protocol clients, and the other workers.

    The methods for users act on all connections of the user with this id, on every worker, within a second; a user who
    is not connected is no error. `client` is the id of one connection, as presence lists it, or the log a raw one:
    then on that one only (`session` is the same). They raise BrokerUnavailable if the other workers cannot be told,
    ValueError for what could not be told them: a time that is infinite, or text that is not UTF-8.
    """

    def __init__(self, *args: Any, authority: Authority, **options: Any) -> None:
        super().__init__(*args, **options)
        self.authority = authority
        self.clients: Clients[Connected] = Clients()
        # Of those that are no protocol clients.
        self.raw_sessions: RawSessions = RawSessions(self)
        self._surveys: dict[str, asyncio.Queue[Raw]] = {}
        self._born = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._born

    # Users

    async def subscribe_user(
        self,
        user: str,
        channel: str,
        *,
        client: str = "",
        session: str = "",
        info: bytes = b"",
        data: bytes = b"",
        override: Override | None = None,
        recover_since: StreamPosition | None = None,
        expire_at: float = 0,
    ) -> None:
        """Subscribe a user's connections to a channel, whatever its namespace allows.

        `info` (shown to others) and `data` (for the client) are JSON, `override` changes options for these
        subscriptions, `recover_since` sends what was published since; they end at `expire_at`, Unix time, 0 never. A
        connection that has `client_channel_limit` channels already is closed with 3505.

        Raises Refused if the channel's namespace is unknown (102), InvalidChannel.
        """
        self.authority.options(channel_name(channel))
        order = _Subscribe(user=user, client=client or session, channel=channel, override=override or Override())
        order.info, order.data, order.since, order.expire_at = info, data, recover_since, expire_at
        await self._order(order)

    async def unsubscribe_user(self, user: str, channel: str = "", *, client: str = "", session: str = "") -> None:
        """Unsubscribe a user's connections from a channel, or from all; the clients do not subscribe again.

        Raw WebSockets and event streams, which have one channel for ever, are closed.
        """
        await self._order(_Unsubscribe(user=user, client=client or session, channel=channel))

    async def disconnect_user(
        self,
        user: str,
        *,
        client: str = "",
        session: str = "",
        whitelist: tuple[str, ...] = (),
        disconnect: Disconnect = Disconnects.FORCE_DISCONNECT,
    ) -> None:
        """Close a user's connections, except those with the ids in `whitelist`.

        `disconnect` has the close code and its reason: after 3500-3999 and 4500-4999 clients stay away, after all else
        they come back. Raises ValueError for a code that a close frame cannot have.
        """
        if not may_be_sent(disconnect.code):
            raise ValueError(f"a close frame cannot have the code {disconnect.code}")
        order = _Disconnect(user=user, client=client or session, code=disconnect.code, reason=disconnect.reason)
        order.whitelist = whitelist
        await self._order(order)

    async def refresh_user(
        self,
        user: str,
        *,
        client: str = "",
        session: str = "",
        expired: bool = False,
        expire_at: float = 0,
        info: bytes = b"",
    ) -> None:
        """Let a user's connections live until `expire_at` (Unix time, 0 for ever), or end them now as `expired`.

        `info`, if given, is JSON and replaces what is shown to others of the connection, where it is subscribed already
        too.
        """
        order = _Refresh(user=user, client=client or session, expired=expired, expire_at=expire_at, info=info)
        await self._order(order)

    async def remove_history(self, channel: str) -> None:
        """Forget what was published in `channel`; its offsets go on. Raises Refused if it has no history."""
        if self.authority.options(channel_name(channel)).history is None:
            raise Refused(Errors.NOT_AVAILABLE)
        await self.start()
        await self.broker.remove_history(channel)
        await self._order(_Forget(channel=channel))

    async def _order(self, order: _Order) -> int:
        """How many were told. Raises ValueError for what they could not read, a time that is infinite for example."""
        payload = _encode(order)
        try:
            _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise ValueError(f"no worker could do this: {error}") from None
        await self.start()
        return await self.broker.broadcast(payload)

    # The console

    async def look(self) -> None:
        """Have every worker tell its figures for a while (`hub.console_figures`). Raises BrokerUnavailable."""
        await self._order(_Look())

    async def admit(self, ticket: str, lasts: float) -> None:
        """Have every worker take a console's ticket, told as a digest, for seconds. Raises BrokerUnavailable."""
        await self._order(_Admit(ticket=ticket, lasts=lasts))

    async def retire(self, node: str) -> bool:
        """Have a worker replaced by another one; false if there is none of that id. Raises BrokerUnavailable.

        A worker of `hub serve` goes when another serves in its place; others go on.
        """
        await self.start()
        return bool(await self.broker.tell(node, _encode(_Retire())))

    def on_look(self) -> None:
        """Somebody has called `look`."""

    def on_admit(self, ticket: str, lasts: float) -> None:
        """Somebody has called `admit`."""

    def on_retire(self) -> None:
        """Somebody has called `retire` for this worker."""

    # Surveys

    async def channels(self, pattern: str = "") -> dict[str, int]:
        """The channels that have subscribers, of all workers, with their numbers; `pattern` is a glob (empty: all).

        A worker that does not answer within 2 seconds is missing, which is logged. Raises BrokerUnavailable.
        """
        found: Counter[str] = Counter()
        for answer in await self._survey("channels", dict[str, int], pattern):
            found.update(answer)
        return dict(found)

    async def info(self) -> list[NodeInfo]:
        """Every worker that answers within 2 seconds. Raises BrokerUnavailable."""
        return await self._survey("info", NodeInfo)

    async def _survey(self, kind: str, shape: type[T], pattern: str = "") -> list[T]:
        number = uuid.uuid4().hex
        answers = self._surveys[number] = asyncio.Queue()
        try:
            count = await self._order(_Survey(number=number, node=self.node, kind=kind, pattern=pattern))
            return list(self._read(await self._collect(answers, count), shape))
        finally:
            del self._surveys[number]

    def _read(self, answers: list[Raw], shape: type[T]) -> Iterator[T]:
        """Those that can be understood; a worker of another version may say something else."""
        for answer in answers:
            try:
                yield msgspec.json.decode(answer, type=shape)
            except msgspec.MsgspecError:
                self.malformed.add()

    async def _collect(self, answers: asyncio.Queue[Raw], count: int) -> list[Raw]:
        found: list[Raw] = []
        try:
            async with asyncio.timeout(SURVEY_TIMEOUT):
                while len(found) < count:
                    found.append(await answers.get())
        except TimeoutError:
            log.warning("%d of %d workers did not answer a survey in time", count - len(found), count)
        return found

    def _channels_here(self, pattern: str) -> dict[str, int]:
        matches = re.compile(fnmatch.translate(pattern or "*")).match
        found = self.registry.channels.items()
        return {name: len(each) for name, each in found if matches(name) and each and not name.startswith(OWN)}

    def _info_here(self) -> NodeInfo:
        channels = self.registry.channels.values()
        return NodeInfo(
            uid=self.node,
            name=f"{socket.gethostname()}_{self.node}",
            version=__version__,
            num_clients=len(self.clients),
            num_users=self.clients.users,
            num_subs=sum(len(channel) for channel in channels),
            num_channels=len(channels),
            uptime=int(self.uptime),
        )

    # What was told

    def on_control(self, payload: bytes) -> None:
        try:
            order = _decoder.decode(payload)
        except (msgspec.MsgspecError, RecursionError):
            self.malformed.add()
            return
        match order:
            case _Targeted():
                clients = self._concerned(order.user, order.client)
                if clients:
                    self.delivery.flush()  # what was published before they are told goes before it
                for client in clients:
                    try:
                        self._act(client, order)
                    except Exception:  # the user's other connections are not spared
                        log.exception("unexpected fault while %r was told what to do", client, extra=client.extra)
            case _Forget():
                self.streams.forget(order.channel)
            case _Look():
                self.on_look()
            case _Admit():
                self.on_admit(order.ticket, order.lasts)
            case _Retire():
                self.on_retire()
            case _Survey():
                body = self._info_here() if order.kind == "info" else self._channels_here(order.pattern)
                self._keep(self.broker.tell(order.node, _encode(_Answer(number=order.number, body=Raw(_encode(body))))))
            case _Answer():
                if order.number in self._surveys:
                    self._surveys[order.number].put_nowait(order.body)

    def _keep(self, future: asyncio.Future[Any]) -> None:
        """An answer that cannot be sent is one that the survey waits for in vain."""
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _concerned(self, user: str, client: str) -> list[_Concerned]:
        return [*self.clients.of(user, client), *self.raw_sessions.of(user, client)]

    def _act(self, client: _Concerned, order: _Targeted) -> None:
        match order:
            case _Subscribe() if isinstance(client, Client):  # others have one channel for ever
                self._subscribe(client, order)
            case _Unsubscribe():
                for channel in [order.channel] if order.channel else client.channels:
                    client.unsubscribe(channel)
            case _Disconnect() if client.client_id not in order.whitelist:
                client.end(Disconnect(code=order.code, reason=order.reason))
            case _Refresh():
                self._refresh(client, order)

    def _subscribe(self, client: Client, order: _Subscribe) -> None:
        granted = SubscribeGrant(info=order.info, data=order.data, override=order.override)
        since = StreamPosition(*order.since) if order.since is not None else None
        on_fault = partial(self._not_subscribed, client, order.channel)
        subscribe_by_server(client, order.channel, granted, since, order.expire_at, on_fault)

    def _not_subscribed(self, client: Client, channel: str, fault: Exception) -> None:
        unexpected = None if isinstance(fault, HubError) else fault
        text = "%r could not be subscribed to %r: %s"
        log.warning(text, client, channel, fault, exc_info=unexpected, extra=client.extra)
        if isinstance(fault, Ended):
            client.end(fault.disconnect)

    def _refresh(self, client: _Concerned, order: _Refresh) -> None:
        if order.expired:
            client.end(Disconnects.EXPIRED)
            return
        if order.info and not isinstance(client, RawSession) and order.info != client.info:
            rename(self, client, order.info)
        client.prolong(order.expire_at)
        if isinstance(client, Client):
            client.wire.write(push("refresh", RefreshResult(bool(order.expire_at), ttl(order.expire_at))))
