"""Reservations, subscriptions and forms in any order against plain tables: what is counted, and that all of it ends.

A reservation keeps a channel for somebody who waits for Redis; meanwhile others come and go in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hub.protocol.forms import RAW, Event, Form, JsonForm
from hub.registry import Channel, KeepsAll, Registry
from hub.types import Membership, Publication


class Wire(KeepsAll):
    """Takes anything."""

    def __init__(self) -> None:
        self.write: Callable[[bytes], object] = len


class Client:
    """A subscriber that is written to by nobody."""

    def __init__(self, number: int) -> None:
        self.id = b"%d" % number
        self.wire = Wire()

    def on_insufficient(self, channel: str) -> None:
        raise AssertionError("the registry does not judge")


CLIENTS = [Client(number) for number in range(4)]
FORMS: list[Form] = [RAW, JsonForm(), JsonForm(positioned=True), JsonForm(positioned=True, delta=True)]
NAMES = ["a", "b", "c"]
clients, forms, names = st.sampled_from(CLIENTS), st.sampled_from(FORMS), st.sampled_from(NAMES)
events = st.lists(st.sampled_from([Publication(b"1"), Publication(b"2"), Membership(True, b"{}")]), max_size=3)


class RegistryMachine(RuleBasedStateMachine):
    """Everything that a worker does with its registry."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        # Who is in which channel, in which form; how many wait to be; what was written last; the channels that are.
        self.pairs: dict[tuple[Client, str], Form] = {}
        self.waiting: Counter[str] = Counter()
        self.last: dict[str, Publication] = {}
        self.channels: dict[str, Channel] = {}

    def listeners(self, name: str) -> dict[Client, Form]:
        return {client: form for (client, other), form in self.pairs.items() if other == name}

    def interest(self, name: str) -> int:
        return self.waiting[name] + len(self.listeners(name))

    def began(self, name: str) -> None:
        """There is an interest: the channel is the one that it was, or a new one that knows nothing."""
        channel = self.registry.channels[name]
        if name not in self.channels:
            assert (channel.name, channel.pending, channel.last, channel.stream) == (name, [], None, None)
            self.channels[name] = channel
        assert channel is self.channels[name]

    def ended(self, name: str) -> bool:
        """Whether there is no interest any more; all that was known of the channel is forgotten then."""
        if self.interest(name):
            return False
        self.channels.pop(name, None)
        self.last.pop(name, None)
        return True

    # Reservations

    @rule(name=names)
    def reserve(self, name: str) -> None:
        channel = self.registry.reserve(name)
        self.waiting[name] += 1
        self.began(name)
        assert channel is self.channels[name]

    @precondition(lambda self: self.waiting.total())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting.elements())))
        self.waiting[name] -= 1
        channel = self.channels[name]
        assert self.registry.release(channel) is self.ended(name)

    @precondition(lambda self: self.waiting.total())
    @rule(data=st.data(), client=clients, form=forms)
    def join(self, data: st.DataObject, client: Client, form: Form) -> None:
        """What was reserved is a subscription now."""
        name = data.draw(st.sampled_from(sorted(self.waiting.elements())))
        if (client, name) not in self.pairs:
            self.registry.join(client, self.channels[name], form)
            self.waiting[name] -= 1
            self.pairs[client, name] = form

    # Subscriptions

    @rule(client=clients, name=names, form=forms)
    def subscribe(self, client: Client, name: str, form: Form) -> None:
        """One who is in it already stays as it is."""
        assert self.registry.subscribe(client, name, form) is (not self.interest(name))
        self.pairs.setdefault((client, name), form)
        self.began(name)

    @rule(client=clients, name=names)
    def unsubscribe(self, client: Client, name: str) -> None:
        """True for the last interest, not if somebody waits, and not for who was not in it."""
        was_in = self.pairs.pop((client, name), None) is not None
        assert self.registry.unsubscribe(client, name) is (was_in and self.ended(name))

    @rule(client=clients)
    def rewire(self, client: Client) -> None:
        """What is delivered goes to the new wire, in all of its channels."""
        client.wire = Wire()
        self.registry.rewire(client)

    @rule(client=clients)
    def remove(self, client: Client) -> None:
        left = [name for other, name in self.pairs if other is client]
        self.pairs = {pair: form for pair, form in self.pairs.items() if pair[0] is not client}
        assert sorted(self.registry.remove(client)) == sorted(name for name in left if self.ended(name))

    # Delivery

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), written=events)
    def write(self, data: st.DataObject, written: list[Event]) -> None:
        """A publication takes all to the next form; joins and leaves are no base for a delta."""
        name = data.draw(st.sampled_from(sorted(self.channels)))
        self.channels[name].advance(written)
        publications = [event for event in written if isinstance(event, Publication)]
        if publications:
            self.last[name] = publications[-1]
            self.pairs.update(((client, name), form.next) for client, form in self.listeners(name).items())

    def teardown(self) -> None:
        """Everybody leaves: nothing is left behind."""
        for name in list(self.waiting.elements()):
            self.registry.release(self.channels[name])
        for client in CLIENTS:
            self.registry.remove(client)
        assert self.registry.channels == {}
        assert (self.registry.subscribers, self.registry.subscriptions) == (0, 0)
        for channel in self.channels.values():
            assert (channel.interest, channel.groups, list(channel)) == (0, {}, [])

    # What must be true

    @invariant()
    def both_tables_agree(self) -> None:
        registry = self.registry
        assert registry.channels == self.channels
        assert registry.subscriptions == len(self.pairs)
        assert registry.subscribers == len({client for client, _ in self.pairs})
        for client in CLIENTS:
            assert sorted(registry.channels_of(client)) == sorted(name for other, name in self.pairs if other is client)

    @invariant()
    def channels_know_their_subscribers(self) -> None:
        for name, channel in self.channels.items():
            listeners = self.listeners(name)
            assert channel.interest == self.interest(name) > 0
            assert channel.last == self.last.get(name)
            assert len(channel) == len(listeners)
            assert set(channel) == set(listeners)
            assert [client in channel for client in CLIENTS] == [client in listeners for client in CLIENTS]
            assert set(channel.positioned) == {client for client, form in listeners.items() if form.positioned}
            assert repr(channel) == f"<Channel {name!r} {len(listeners)} subscribers>"

    @invariant()
    def groups_are_those_of_equal_forms(self) -> None:
        for name, channel in self.channels.items():
            groups: dict[Form, dict[Client, Wire]] = {}
            for client, form in self.listeners(name).items():
                groups.setdefault(form, {})[client] = client.wire
            assert channel.groups == groups


TestRegistry = RegistryMachine.TestCase
