"""Who may see the console: a password, what proves that it was known, and how often it may be tried.

Two proofs, both signed and expiring: the session is a cookie that only HTTP requests carry; with it the page gets a
ticket, which opens the console's WebSocket. Any worker that knows the password accepts what another one has signed, so
there is nothing to share and no worker that a browser has to stay with.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict

from .admission import TokenBucket

__all__ = ["Attempts", "Password", "Signer", "Told"]

# Cost of the key: 16 MiB and about a twentieth of a second, so that a cookie is no good place to guess the password.
COST, BLOCK = 2**14, 8

# A login may be tried so often at once, and then once in so many seconds; by one address, and by all together.
AT_ONCE, PAUSE = 5, 10.0
ALL_AT_ONCE, ALL_PAUSE = 30, 1.0
# Addresses that are remembered; the oldest are forgotten.
MOST_ADDRESSES = 4096
# The same of tickets.
MOST_TOLD = 1000


class Signer:
    """Proofs that a process with the same key has made; `kind` keeps one from passing for the other."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def random(cls) -> Signer:
        """One that is like no other."""
        return cls(secrets.token_bytes(32))

    def sign(self, kind: str, lasts: float) -> str:
        """A proof that is good for so many seconds; letters, digits and dots."""
        text = f"{int(time.time() + lasts)}.{secrets.token_hex(12)}"
        return f"{text}.{self._seal(kind, text)}"

    def expiry(self, kind: str, proof: str) -> int:
        """Until when it is good (Unix time); 0 if it is not."""
        text, _, seal = proof.rpartition(".")
        if not hmac.compare_digest(seal.encode(errors="replace"), self._seal(kind, text).encode()):
            return 0
        expiry = int(text.partition(".")[0])
        return expiry if expiry > time.time() else 0

    def _seal(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"{kind}.{text}".encode(errors="replace"), hashlib.sha256).hexdigest()


class Password:
    """The console's password; `signer` is the same in every process that has the same one."""

    def __init__(self, password: str, hub: str) -> None:
        """`hub` tells hubs apart that have the same password."""
        self._digest = _digest(password)
        salt = f"broadcast-hub console of {hub}".encode()
        self.signer: Signer = Signer(hashlib.scrypt(password.encode(), salt=salt, n=COST, r=BLOCK, p=1))

    def is_right(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given), self._digest)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


class Told:
    """Tickets that other workers have told of, where no password gives all of them the same key."""

    def __init__(self) -> None:
        # Digest → `time.monotonic` of its end.
        self._until: dict[str, float] = {}

    @staticmethod
    def digest(ticket: str) -> str:
        """What is told of a ticket: who reads it has no ticket."""
        return hashlib.sha256(ticket.encode(errors="replace")).hexdigest()

    def add(self, digest: str, lasts: float) -> None:
        now = time.monotonic()
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[digest] = now + lasts
        if len(self._until) > MOST_TOLD:
            del self._until[next(iter(self._until))]

    def knows(self, ticket: str) -> bool:
        return self._until.get(self.digest(ticket), 0.0) > time.monotonic()


class Attempts:
    """How often a password may be tried in this worker."""

    def __init__(self) -> None:
        self._all = TokenBucket(1 / ALL_PAUSE, ALL_AT_ONCE)
        self._addresses: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str) -> bool:
        """Whether this address may try once more."""
        return self._bucket(_network(address)).take() and self._all.take()

    def _bucket(self, network: str) -> TokenBucket:
        bucket = self._addresses.pop(network, None) or TokenBucket(1 / PAUSE, AT_ONCE)
        self._addresses[network] = bucket
        if len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        return bucket


def _network(address: str) -> str:
    """Whoever has one address of IPv6 has 2**64 of them; but those of IPv4 that a socket of IPv6 sees are one each."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket's client has none
        return address
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
