"""Who may ask: names, other sites' pages, tokens and cookies; and which addresses may be listened on at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli import build
from penstock.page_access import COOKIE, HOURS, Access, AccessError, access, inside, loopback
from penstock.settings import HttpSettings, PageSettings, Settings, SettingsError, load
from penstock.stack import LocalStack, StackError
from penstock.warehouse_client import credentials

TOKEN = "correct-horse-battery"  # noqa: S105 - of no use anywhere
HERE = Access(hosts=frozenset({"localhost", "127.0.0.1", "::1"}))


def refused(rules: Access, method: str = "GET", path: str = "/", cookie: str = "", **headers: str) -> int:
    """The status of the refusal, 0 where there is none. `sec_fetch_site` is the header sec-fetch-site."""
    named = {key.replace("_", "-"): value for key, value in {"host": "localhost:8123", **headers}.items()}
    found = rules.refusal(method, path, named, {COOKIE: cookie} if cookie else {})
    return found.status if found else 0


@pytest.mark.parametrize("host", ["localhost", "localhost:8123", "127.0.0.1:1", "[::1]:8123", "LOCALHOST"])
def test_on_loopback_every_name_of_this_machine_is_served(host: str) -> None:
    assert refused(HERE, host=host) == 0


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", "", "[", "localhost."])
def test_a_name_that_a_foreign_site_gave_this_address_is_not(host: str) -> None:
    assert refused(HERE, host=host) == 421


@pytest.mark.parametrize(
    ("method", "site", "mode", "dest", "status"),
    [
        ("GET", "none", "navigate", "document", 0),
        ("GET", "same-origin", "cors", "empty", 0),
        ("GET", "cross-site", "navigate", "document", 0),
        ("GET", "cross-site", "navigate", "iframe", 403),
        ("GET", "cross-site", "no-cors", "image", 403),
        ("GET", "same-site", "cors", "empty", 403),
        ("POST", "cross-site", "navigate", "document", 403),
        ("POST", "same-origin", "cors", "empty", 0),
    ],
)
def test_another_sites_page_may_link_here_and_nothing_more(
    method: str, site: str, mode: str, dest: str, status: int
) -> None:
    assert refused(HERE, method, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8123", 0),
        ("http://localhost:9999", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_a_change_comes_from_this_page_or_from_no_browser(origin: str, status: int) -> None:
    assert refused(HERE, "POST", origin=origin) == status
    assert refused(HERE, "POST") == 0, "a command sends no Origin"


def test_where_there_is_a_token_everything_but_health_and_signing_in_asks_for_it() -> None:
    rules = Access(TOKEN)
    for path in ("/", "/sql", "/metrics", "/console", "/reading", "/experiments/look", "/healthz/x", "/loginx"):
        assert refused(rules, path=path) == 401, path
        assert refused(rules, path=path, authorization=f"Bearer {TOKEN}") == 0, path
    for path in ("/healthz", "/readyz", "/login", "/page/abc/style.css"):
        assert refused(rules, path=path) == 0, path
    assert refused(Access(TOKEN, open_metrics=True), path="/metrics") == 0


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer ", "Bearer correct-horse-batter", f"Basic {TOKEN}", TOKEN, "Bearer ü"]
)
def test_what_is_not_the_token_is_refused(sent: str) -> None:
    assert refused(Access(TOKEN), authorization=sent) == 401
    assert not Access("").right("")


def test_a_session_is_as_good_as_the_token_until_it_expires_and_says_nothing_of_it() -> None:
    now = [1_000_000.0]
    rules = Access(TOKEN, clock=lambda: now[0])
    session = rules.session()
    assert TOKEN not in session
    assert refused(rules, cookie=session) == 0
    assert refused(Access("another-token-there", clock=lambda: now[0]), cookie=session) == 401
    until, _, seal = session.partition(".")
    for forged in (f"{int(until) + 1}.{seal}", until, f".{seal}", f"{until}.", "x.y", f"{until}.{seal}0"):
        assert refused(rules, cookie=forged) == 401, forged
    now[0] += HOURS * 3600
    assert refused(rules, cookie=session) == 401


def test_a_change_by_cookie_needs_the_origin_that_browsers_send() -> None:
    rules = Access(TOKEN)
    session = rules.session()
    assert refused(rules, "POST", "/alerts/silence", session) == 403
    assert refused(rules, "POST", "/alerts/silence", session, origin="http://localhost:8123") == 0
    assert refused(rules, "POST", "/alerts/silence", session, origin="http://evil.example") == 403
    assert refused(rules, "POST", "/sql", authorization=f"Bearer {TOKEN}") == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "penstock.internal"])  # noqa: S104
def test_an_address_that_others_can_reach_is_not_listened_on_without_a_token(host: str) -> None:
    with pytest.raises(AccessError, match=r"can be reached from other machines, and page\.token is not set"):
        access(Settings(http=HttpSettings(host=host)))
    rules = access(Settings(http=HttpSettings(host=host), page=PageSettings(token=TOKEN)))
    assert refused(rules, host="whatever.example") == 401
    assert refused(rules, host="whatever.example", authorization=f"Bearer {TOKEN}") == 0


def test_neither_ingest_nor_the_stack_starts_on_such_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_HTTP__HOST", "0.0.0.0")  # noqa: S104
    monkeypatch.setenv("PENSTOCK_STACK__STATE", str(tmp_path / "state"))
    said = CliRunner().invoke(build(), ["ingest"])
    assert said.exit_code == 2
    assert said.stderr.startswith("penstock: http.host = '0.0.0.0' can be reached from other machines")
    assert said.stderr.count("\n") == 1
    with pytest.raises(StackError, match="PENSTOCK_PAGE__TOKEN"):
        LocalStack(load("/dev/null", stack=False)).start()
    assert not (tmp_path / "state").exists()


def test_commands_send_the_token_that_the_settings_hold() -> None:
    assert credentials(Settings()) == {}
    assert credentials(Settings(page=PageSettings(token=TOKEN))) == {"Authorization": f"Bearer {TOKEN}"}


def test_a_proxys_name_is_served_where_it_is_listed_and_needs_the_token_too() -> None:
    with pytest.raises(AccessError, match=r"page\.hosts"):
        access(Settings(page=PageSettings(hosts="penstock.example")))
    rules = access(Settings(page=PageSettings(hosts="penstock.example, other.example", token=TOKEN)))
    for host, status in (("penstock.example", 0), ("other.example:443", 0), ("localhost", 0), ("evil.example", 421)):
        assert refused(rules, host=host, authorization=f"Bearer {TOKEN}") == status
    assert loopback("127.9.9.9")
    assert not loopback("example.com")


@pytest.mark.parametrize("token", ["short", "has a space in the middle", "tönend-und-sehr-lang"])
def test_a_token_that_could_be_guessed_or_not_sent_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(SettingsError, match=r"PENSTOCK_PAGE__TOKEN: expected 16 or more") as caught:
        load("/dev/null", environ={"PENSTOCK_PAGE__TOKEN": token}, stack=False)
    assert token not in str(caught.value)
    assert TOKEN not in repr(Settings(page=PageSettings(token=TOKEN)))
    assert TOKEN not in repr(Access(TOKEN))


@pytest.mark.parametrize(
    "where", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/x\r\nSet-Cookie: a=b"]
)
def test_nobody_is_sent_away_after_signing_in(where: str) -> None:
    assert inside(where) == "/"
    assert inside("/drift?model=a") == "/drift?model=a"
