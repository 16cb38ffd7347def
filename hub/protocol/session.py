"""What a client may say when: the states of a protocol connection, without I/O."""

from __future__ import annotations

from enum import IntEnum, auto

from .commands import Command, Connect, Empty, Ping, Send

__all__ = ["Action", "State", "is_pong", "judge"]


# Whole numbers, because each command is looked up by two of them, and others have a hash in Python.
class State(IntEnum):
    # Nothing has been said.
    NEW = auto()
    # `connect` is being answered; other commands wait.
    CONNECTING = auto()
    OPEN = auto()
    # `connect` was answered with an error.
    REFUSED = auto()
    CLOSED = auto()


class Action(IntEnum):
    RUN = auto()
    PONG = auto()
    # Close with 3501 "bad request".
    END = auto()
    IGNORE = auto()


class _Kind(IntEnum):
    CONNECT = auto()
    # With an id, to be answered.
    COMMAND = auto()
    SEND = auto()
    # `{}`
    EMPTY = auto()
    BAD = auto()


# What is not here ends the connection.
_LEGAL = {
    (State.NEW, _Kind.CONNECT): Action.RUN,
    (State.OPEN, _Kind.COMMAND): Action.RUN,
    (State.OPEN, _Kind.SEND): Action.RUN,
    (State.OPEN, _Kind.EMPTY): Action.PONG,
    **{(State.CLOSED, kind): Action.IGNORE for kind in _Kind},
}


# No official client sends `ping`, and the reference server does not take it.
_WITH_ID = {Connect: _Kind.CONNECT, Send: _Kind.SEND, Empty: _Kind.BAD, Ping: _Kind.BAD}
_WITHOUT_ID = {Send: _Kind.SEND, Empty: _Kind.EMPTY}


def _kind(command: Command) -> _Kind:
    if command.id:
        return _WITH_ID.get(type(command.body), _Kind.COMMAND)
    return _WITHOUT_ID.get(type(command.body), _Kind.BAD)


def is_pong(command: Command) -> bool:
    """Whether it can only be the answer to a ping."""
    return _kind(command) is _Kind.EMPTY


def judge(state: State, command: Command, *, pinged: bool) -> Action:
    """What to do with a command; `pinged`: an answer to a ping is outstanding."""
    action = _LEGAL.get((state, _kind(command)), Action.END)
    return Action.END if action is Action.PONG and not pinged else action
