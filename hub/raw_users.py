"""Raw clients with the signed tokens of protocol clients: `/ws/room?token=<JWT>`."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from .admission import EXPIRE_AT, Authenticator
from .authority import Authority, User, as_python
from .errors import Disconnects, Ended, Refused

__all__ = ["by_signed_token"]


def by_signed_token(authority: Authority) -> Authenticator | None:
    """An authenticator for the raw endpoint, by the rules of `Authority.connect`; None without a key.

    What it returns raises Ended while the keys cannot be had.
    """
    if not authority.verifies:
        return None

    async def authenticate(connection: HTTPConnection, token: str | None) -> User | bool:
        try:
            principal = await authority.connect(connection, token or "")
            info = as_python(principal.info)
        except Refused as refusal:
            if refusal.error.temporary:
                raise Ended(Disconnects.UNVERIFIED) from None
            return False
        except Ended:
            return False
        connection.scope[EXPIRE_AT] = principal.expire_at
        return User(id=principal.user, info=info, expire_at=principal.expire_at) if principal.user else True

    return authenticate
