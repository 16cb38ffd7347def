"""What may be said when: every command, with and without an id, in every state."""

from __future__ import annotations

import pytest

from hub.protocol import commands as c
from hub.protocol.commands import Command
from hub.protocol.session import Action, State, judge

WITHOUT_ID, WITH_ID = 0, 7
# Answered in a connection that is open, and only there.
ANSWERED = [
    c.Subscribe("a"),
    c.Unsubscribe("a"),
    c.Publish("a"),
    c.Presence("a"),
    c.PresenceStats("a"),
    c.History("a"),
    c.Rpc(),
    c.Refresh(),
    c.SubRefresh("a"),
]
ALL = [c.Connect(), *ANSWERED, c.Ping(), c.Send(), c.Empty()]
SAYINGS = [Command(number, body) for number in (WITHOUT_ID, WITH_ID) for body in ALL]


def expected(state: State, command: Command, pinged: bool) -> Action:
    """The protocol's words, in their order."""
    body, numbered = command.body, command.id > 0
    if state is State.CLOSED:
        return Action.IGNORE
    if state is State.NEW and isinstance(body, c.Connect) and numbered:
        return Action.RUN
    if state is State.OPEN:
        if isinstance(body, c.Send) or (body in ANSWERED and numbered):
            return Action.RUN
        if isinstance(body, c.Empty) and not numbered and pinged:
            return Action.PONG
    return Action.END


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("pinged", [True, False])
def test_the_whole_table(state: State, pinged: bool) -> None:
    """`connect` comes first and once, with an id; `{}` answers a ping; after the end nothing matters."""
    for command in SAYINGS:
        assert judge(state, command, pinged=pinged) is expected(state, command, pinged), command


def test_every_command_is_in_the_table() -> None:
    """A command that comes later belongs here too."""
    assert {type(body) for body in ALL} == set(c.Body.__args__)


@pytest.mark.parametrize("state", State)
def test_only_a_pong_depends_on_pings(state: State) -> None:
    """Other traffic does not count as an answer, and a ping forbids nothing."""
    for command in SAYINGS:
        if command != Command(WITHOUT_ID, c.Empty()):
            assert judge(state, command, pinged=True) is judge(state, command, pinged=False)


def test_how_often_something_may_be_said() -> None:
    """Counted, so that the table has no row too many: one is legal at first, eleven and a pong in the open."""
    counts = {
        state: sum(judge(state, command, pinged=True) is not Action.END for command in SAYINGS) for state in State
    }
    assert counts == {
        State.NEW: 1,
        State.CONNECTING: 0,
        State.OPEN: 12,
        State.REFUSED: 0,
        State.CLOSED: len(SAYINGS),
    }
