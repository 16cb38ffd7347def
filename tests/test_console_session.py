"""Who may see the console: what proves that a password was known, for how long, and how often it may be tried."""

from __future__ import annotations

import pytest

from hub import console_session
from hub.console_session import AT_ONCE, PAUSE, Attempts, Password, Signer, Told

WORD = "correct horse"


class Clock:
    """Stands still until somebody moves it; both of `time`'s clocks."""

    def __init__(self) -> None:
        self.now = 1_000_000.5

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console_session, "time", clock)
    monkeypatch.setattr("hub.admission.time", clock)
    return clock


def test_a_proof_is_good_for_its_kind_and_time(clock: Clock) -> None:
    """A session does not pass for a ticket, and neither is good when its time is over."""
    signer = Signer.random()
    proof = signer.sign("session", 60)
    assert signer.expiry("session", proof) == 1_000_060
    assert signer.expiry("ticket", proof) == 0
    clock.now += 61
    assert signer.expiry("session", proof) == 0


@pytest.mark.parametrize(
    "forged", ["", ".", "..", "9999999999", "9999999999.aa.", "x.y.z", "9999999999.é.\ud800", "." * 99]
)
def test_what_nobody_signed_is_no_proof(forged: str) -> None:
    """Whatever stands in its place; nor what another process has signed, or one's own with another time."""
    signer = Signer.random()
    assert signer.expiry("session", forged) == 0
    assert signer.expiry("session", Signer.random().sign("session", 60)) == 0
    expiry, nonce, seal = signer.sign("session", 60).split(".")
    assert signer.expiry("session", f"{int(expiry) + 1}.{nonce}.{seal}") == 0


def test_workers_with_one_password_accept_each_other() -> None:
    """They need not share anything else; another password, or another hub, is another key."""
    here, there = Password(WORD, "hub"), Password(WORD, "hub")
    proof = here.signer.sign("session", 60)
    assert there.signer.expiry("session", proof)
    assert not Password("correct horses", "hub").signer.expiry("session", proof)
    assert not Password(WORD, "other").signer.expiry("session", proof)


def test_a_password_is_right_or_wrong() -> None:
    """As a whole, in its case, and whatever characters it has."""
    password = Password("pässwörd", "hub")
    assert password.is_right("pässwörd")
    assert not any(map(password.is_right, ["", "pässwör", "Pässwörd", "pässwörd ", "\ud800"]))


def test_tickets_that_others_have_told_of(clock: Clock) -> None:
    """The digest is enough to know one; they are forgotten when their time is over."""
    told = Told()
    told.add(Told.digest("one"), 30)
    assert told.knows("one")
    assert not told.knows("two")
    assert not told.knows(Told.digest("one"))
    clock.now += 31
    assert not told.knows("one")
    for number in range(console_session.MOST_TOLD + 5):
        told.add(Told.digest(str(number)), 30)
    assert len(told._until) == console_session.MOST_TOLD
    assert told.knows(str(console_session.MOST_TOLD))
    assert not told.knows("0")


def test_a_password_can_be_tried_a_few_times(clock: Clock) -> None:
    """Then once in a while; another address does not pay for it."""
    attempts = Attempts()
    assert [attempts.take("192.0.2.1") for _ in range(AT_ONCE + 2)] == [True] * AT_ONCE + [False] * 2
    assert attempts.take("192.0.2.2")
    clock.now += PAUSE
    assert attempts.take("192.0.2.1")
    assert not attempts.take("192.0.2.1")


def test_addresses_of_ipv4_are_told_apart_on_a_socket_of_ipv6(clock: Clock) -> None:
    """On `::` they come as `::ffff:192.0.2.1`, all in one network: one of them used up the attempts of everybody."""
    attempts = Attempts()
    assert [attempts.take("::ffff:192.0.2.1") for _ in range(AT_ONCE + 1)] == [True] * AT_ONCE + [False]
    assert not attempts.take("192.0.2.1")
    assert attempts.take("::ffff:192.0.2.2")


def test_many_addresses_are_no_more_attempts(clock: Clock) -> None:
    """Who has a network of IPv6 has one address; all together have a limit; the table has an end."""
    attempts = Attempts()
    assert sum(attempts.take(f"2001:db8::{number:x}") for number in range(100)) == AT_ONCE
    assert sum(attempts.take(f"10.0.{number // 256}.{number % 256}") for number in range(5000)) < 50
    assert len(attempts._addresses) == console_session.MOST_ADDRESSES
    assert attempts.take("not an address") is False
