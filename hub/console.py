"""`/console`: the page for people with a pager, and what lets them in.

The page itself has no secret. What it shows comes through its WebSocket, which a ticket opens; a ticket is for who has
a session, or for whom the application's dependency lets pass.
"""

from __future__ import annotations

import logging

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.params import Depends
from fastapi.responses import FileResponse
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import WebSocketRoute

from .admission import Admission
from .channel_ws import ChannelEndpoint
from .clients import Clients, Context
from .config import Settings
from .console_authority import ConsoleAuthority
from .console_figures import Figures
from .console_session import Attempts, Password, Signer, Told
from .control import HubNode
from .errors import BrokerUnavailable
from .handlers import HANDLERS
from .log import Throttled
from .pages import PAGE_HEADERS, STATIC, TEMPLATES, Files

__all__ = ["Console"]

log: logging.Logger = logging.getLogger("hub.console")

COOKIE = "hub_console"
SESSION, TICKET = "session", "ticket"
# Seconds. A ticket is used at once.
SESSION_LASTS, TICKET_LASTS = 12 * 3600, 30
LARGEST_BODY = 4096
# What the page loads.
FILES = frozenset({"hub.js", "dom.js", "render.js", "words.js", "icon.svg"})
# And all that begins so.
OWN_FILES = "console"

FOREIGN = "This request comes from a page of another site."
WRONG = "The password is wrong."
TOO_OFTEN = "The password was tried too often: wait ten seconds."
NO_SESSION = "Log in first."
NO_LOGIN = 'This is no login: {"password": "..."} is one.'


class Login(BaseModel):
    password: SecretStr


class Ticket(BaseModel):
    ticket: str
    # Whether there is a session, which one can end.
    session: bool


class Console:
    """The console of one worker; `router` has everything under `/console`."""

    def __init__(self, hub: HubNode, settings: Settings, figures: Figures, guard: Depends | None) -> None:
        """Guarded by the application's dependency, by the password of the settings, or by both."""
        secret = settings.console_password
        # None: the dependency alone decides.
        self._password = Password(secret.get_secret_value(), settings.redis_prefix) if secret else None
        self._signer = self._password.signer if self._password else Signer.random()
        self._hub = hub
        self._told = Told()
        self._attempts = Attempts()
        self._wrong = Throttled(log, logging.WARNING, "%d logins to the console were refused")
        self._files = Files(directory=STATIC)
        # Whoever has to look when everything is full can: no limit of clients counts here.
        unlimited = {"origins": (), "max_connections": 0, "connect_rate": 0.0, "message_rate": 0.0}
        own = settings.model_copy(update={**unlimited, "client_channel_limit": 16})
        authority = ConsoleAuthority(own, hub, figures, self._knows)
        self._admission = Admission(own)
        context = Context(hub, own, authority, self._admission, Clients(), HANDLERS)
        self.router: APIRouter = self._routes(context, [guard] if guard else [])

    def on_admit(self, ticket: str, lasts: float) -> None:
        """Another worker has given out a ticket. Where there is a password, it signs what is to be believed."""
        if self._password is None:
            self._told.add(ticket, min(lasts, TICKET_LASTS))

    def _knows(self, ticket: str) -> bool:
        return bool(self._signer.expiry(TICKET, ticket)) or self._told.knows(ticket)

    # Routes

    def _routes(self, context: Context, dependencies: list[Depends]) -> APIRouter:
        router = APIRouter(prefix="/console", include_in_schema=False, dependencies=dependencies)
        router.add_api_route("", self._page, methods=["GET"])
        router.add_api_route("/ticket", self._ticket, methods=["POST"], max_body_size=LARGEST_BODY)
        if self._password is not None:
            router.add_api_route("/login", self._login, methods=["POST"], max_body_size=LARGEST_BODY)
            router.add_api_route("/logout", self._logout, methods=["POST"], max_body_size=LARGEST_BODY)
        router.add_api_route("/{file}", self._file, methods=["GET"])
        router.routes.append(WebSocketRoute("/console/websocket", ChannelEndpoint(context), name="hub_console"))
        return router

    async def _page(self) -> Response:
        return FileResponse(TEMPLATES / "console.html", headers=dict(PAGE_HEADERS), media_type="text/html")

    async def _file(self, file: str, request: Request) -> Response:
        if not (file in FILES or file.startswith(OWN_FILES)):
            raise HTTPException(404)
        try:
            return await self._files.get_response(file, request.scope)
        except StarletteHTTPException as error:
            raise HTTPException(error.status_code) from None

    async def _login(self, request: Request) -> Response:
        """The password for a session."""
        self._refuse_foreign(request)
        login = _login_of(await request.body())
        assert self._password is not None
        address = request.client.host if request.client else ""
        if not self._attempts.take(address):
            self._wrong.add(last=f"too many from {address}")
            raise HTTPException(429, TOO_OFTEN, headers={"Retry-After": "10"})
        if not self._password.is_right(login.password.get_secret_value()):
            self._wrong.add(last=f"wrong password from {address}")
            raise HTTPException(401, WRONG)
        log.warning("somebody has logged in from %s", address)
        response = Response(status_code=204)
        self._set_cookie(response, request, self._signer.sign(SESSION, SESSION_LASTS), SESSION_LASTS)
        return response

    async def _logout(self, request: Request) -> Response:
        self._refuse_foreign(request)
        response = Response(status_code=204)
        self._set_cookie(response, request, "", 0)
        return response

    async def _ticket(self, request: Request) -> Ticket:
        """What opens the WebSocket, for who is logged in."""
        self._refuse_foreign(request)
        if self._password is not None and not self._signer.expiry(SESSION, request.cookies.get(COOKIE, "")):
            raise HTTPException(401, NO_SESSION)
        ticket = self._signer.sign(TICKET, TICKET_LASTS)
        if self._password is None:
            await self._tell(ticket)
        return Ticket(ticket=ticket, session=self._password is not None)

    async def _tell(self, ticket: str) -> None:
        """Other workers have other keys. While Redis is away, the ticket is good for this worker."""
        try:
            await self._hub.admit(Told.digest(ticket), TICKET_LASTS)
        except BrokerUnavailable as error:
            log.warning("a ticket is good for one worker only: %s", error)

    def _set_cookie(self, response: Response, request: Request, value: str, lasts: int) -> None:
        """Without a path: the browser takes the one of /console as it sees it, whatever a proxy makes of it."""
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, value, lasts, path=None, secure=secure, httponly=True, samesite="strict")

    def _refuse_foreign(self, request: Request) -> None:
        """Whatever a browser sends with POST has its origin; HUB_ORIGINS is not for the console."""
        if not self._admission.allows_origin(request):
            raise HTTPException(403, FOREIGN)


def _login_of(body: bytes) -> Login:
    """Not FastAPI's way, which says what it has got: that may be a password, or nothing that JSON can say."""
    try:
        return Login.model_validate_json(body)
    except ValidationError:
        raise HTTPException(422, NO_LOGIN) from None
