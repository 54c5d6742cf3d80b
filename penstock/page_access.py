"""Who may ask the process that holds the warehouse: this machine, or whoever knows the token. Pure but for randomness.

On loopback no token is needed, and none helps against a page in the user's own browser: so names that a foreign site
could give this address (DNS rebinding) are refused, and so is whatever another site's page sends here.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from penstock.settings import Settings

COOKIE: Final = "penstock_session"
HOURS: Final = 12
_SAFE: Final = frozenset({"GET", "HEAD"})
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# A page's own files tell nobody anything, and health tells what a load balancer has to know.
_OPEN: Final = frozenset({"/healthz", "/readyz", "/login"})
_OPEN_BELOW: Final = "/page/"


class AccessError(ValueError):
    """An address that must not be listened on like this, in one line."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered. 401: it came without the token."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Access:
    """The rules. `hosts`: names that requests may come for, empty: any. `clock`: seconds since the epoch."""

    token: str = field(default="", repr=False)
    hosts: frozenset[str] = frozenset()
    open_metrics: bool = False
    clock: Callable[[], float] = time.time

    def refusal(self, method: str, path: str, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Refusal | None:
        """None where the request may be answered. Header names are lower case."""
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            return Refusal(
                421, f"{_name(host) or 'no name'!r} is not a name of this page: page.hosts lists those it has"
            )
        if _foreign(method, headers):
            return Refusal(403, "this was sent by a page of another site")
        origin = headers.get("origin")
        changes = method not in _SAFE
        if changes and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Refusal(403, "this was sent by a page of another site")
        if (
            not self.token
            or path in _OPEN
            or path.startswith(_OPEN_BELOW)
            or (self.open_metrics and path == "/metrics")
        ):
            return None
        if self._bearer(headers):
            return None
        if not self.known(cookies.get(COOKIE, "")):
            return Refusal(401, "a token is needed: send it as Authorization: Bearer, or sign in at /login")
        if changes and origin is None:
            return Refusal(403, "a change by cookie needs the header Origin, which browsers send")
        return None

    def right(self, token: str) -> bool:
        """Whether it is the token; takes as long for a wrong one."""
        return bool(self.token) and hmac.compare_digest(token.encode(), self.token.encode())

    def session(self) -> str:
        """The value of a cookie that is as good as the token until it expires. It does not tell the token."""
        until = str(int(self.clock()) + HOURS * 3600)
        return f"{until}.{self._seal(until)}"

    def known(self, session: str) -> bool:
        """Whether the value is one that `session` made with this token, and has not expired."""
        until, _, seal = session.partition(".")
        if not self.token or not hmac.compare_digest(seal.encode(), self._seal(until).encode()):
            return False
        return int(until) > self.clock()

    def _seal(self, until: str) -> str:
        return hmac.new(self.token.encode(), f"penstock page until {until}".encode(), hashlib.sha256).hexdigest()

    def _bearer(self, headers: Mapping[str, str]) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.right(token.strip())


def access(settings: Settings) -> Access:
    """The rules that the settings give. Raises `AccessError` for an address that needs a token and has none."""
    host, page = settings.http.host, settings.page
    outside = not loopback(host)
    if outside and not page.token:
        raise AccessError(
            f"http.host = {host!r} can be reached from other machines, and page.token is not set: set "
            "PENSTOCK_PAGE__TOKEN to a secret of 16 characters or more, or listen on 127.0.0.1"
        )
    if page.hosts and not page.token:
        raise AccessError("page.hosts gives the page out under other names, and page.token is not set: set it")
    names = frozenset(one.strip().lower() for one in page.hosts.split(",") if one.strip())
    if not outside or names:
        names |= _LOOPBACK_NAMES | {host.lower()}
    return Access(page.token, names, page.open_metrics)


def loopback(host: str) -> bool:
    """Whether an address is this machine's own and nobody else's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def inside(path: str) -> str:
    """The path where it stays on this page, else the page's beginning: no one is sent away after signing in."""
    good = path.startswith("/") and not path.startswith(("//", "/\\")) and not any(ord(one) < 32 for one in path)
    return path if good else "/"


def _foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser says that another site's page sent this. A link there may lead here, and nothing else may."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (method in _SAFE and followed)


def _name(host: str) -> str:
    """The name of a Host header, without its port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
