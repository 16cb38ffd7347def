"""The registry's two tables agree with each other and with a simple model, whatever is done."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hub.registry import KeepsAll, Registry


class Client(KeepsAll):
    """A subscriber that is written to by nobody."""

    def __init__(self) -> None:
        self.id = b""
        self.write: Callable[[bytes], object] = len

    @property
    def wire(self) -> Client:
        return self


CLIENTS = [Client() for _ in range(4)]
clients = st.sampled_from(CLIENTS)
names = st.sampled_from(["a", "b", "c"])


class RegistryMachine(RuleBasedStateMachine):
    """Random subscribing and leaving against a set of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.model: set[tuple[Client, str]] = set()

    def listeners(self, name: str) -> set[Client]:
        return {client for client, other in self.model if other == name}

    @rule(client=clients, name=names)
    def subscribe(self, client: Client, name: str) -> None:
        assert self.registry.subscribe(client, name) is (not self.listeners(name))
        self.model.add((client, name))

    @rule(client=clients, name=names)
    def unsubscribe(self, client: Client, name: str) -> None:
        last = self.listeners(name) == {client}
        assert self.registry.unsubscribe(client, name) is last
        self.model.discard((client, name))

    @rule(client=clients)
    def remove(self, client: Client) -> None:
        last = {name for _, name in self.model if self.listeners(name) == {client}}
        assert set(self.registry.remove(client)) == last
        self.model = {pair for pair in self.model if pair[0] is not client}

    @invariant()
    def tables_agree(self) -> None:
        channels = self.registry.channels
        assert {(client, name) for name, channel in channels.items() for client in channel} == self.model
        assert all(len(channel) for channel in channels.values())
        assert self.registry.subscribers == len({client for client, _ in self.model})
        for client in CLIENTS:
            names = self.registry.channels_of(client)
            assert sorted(names) == sorted(name for other, name in self.model if other is client)


TestRegistry = RegistryMachine.TestCase
