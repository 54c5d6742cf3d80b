"""`penstock alerts`: what is on, what has been, what is to be kept quiet, and whether rules and receivers work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock import console

if TYPE_CHECKING:
    from penstock.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
_SECONDS: Final = 60.0
_HISTORY: Final = """
    SELECT alert_id, rule, state, severity, labels, summary, value, threshold, n, source, delivered,
        toUnixTimestamp64Micro(started_at) AS started, toUnixTimestamp64Micro(changed_at) AS changed
    FROM alert_events FINAL
    WHERE changed_at >= fromUnixTimestamp64Micro({since}, 'UTC') {only}
    ORDER BY changed_at DESC, alert_id LIMIT {limit}
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Alerts: what is on, silences, history, trials.", no_args_is_help=True)
    group.command("list")(listed)
    for command in (silence, unsilence, history):
        group.command()(command)
    group.command("test")(trial)
    app.add_typer(group, name="alerts")


def listed(as_json: AsJson = False) -> None:
    """What is pending or firing now, silences that hold, and receivers that do not answer."""
    found = _ask(console.settings(), "GET")
    if as_json:
        console.print_json(found)
        return
    rows = [
        (
            one["state"] + (" (silenced)" if one["silenced_by"] else ""),
            one["severity"],
            one["rule"],
            _labels(one["labels"]),
            one["summary"],
            one["fired_at"] or one["started_at"],
            _told(one["delivered"]),
        )
        for one in found["alerts"]
    ]
    if rows:
        console.print_table(("state", "severity", "rule", "labels", "summary", "since", "told"), rows)
    else:
        console.note("no alert is on")
    for one in found["silences"]:
        console.note(
            f"silence {one['silence_id']} until {one['until']} on {', '.join(one['matchers'])}: "
            f"{one['comment']} ({one['author']})"
        )
    for rule, problem in found["problems"].items():
        console.note(f"rule {rule} cannot be looked at: {problem}")
    for one in found["receivers"]:
        if one["problem"]:
            console.note(f"{one['receiver']} is still to be told of {one['waiting']} events: {one['problem']}")


def silence(
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER...", help='Such as rule=slow, model!=test, variant=~"b|c".')
    ],
    comment: Annotated[str, typer.Option(help="Why.")],
    lasts: Annotated[str, typer.Option("--for", help="How long from now, such as 2h.")] = "2h",
    by: Annotated[str, typer.Option(help="Who silences; else the user of this shell.")] = "",
    as_json: AsJson = False,
) -> None:
    """Tell nobody of alerts that fit all matchers. Who was told of an alert already is told of its end all the same."""
    import getpass

    from analytics.alert_silences import SilenceError, matcher
    from analytics.definition_values import Expected, duration

    try:
        seconds = duration(lasts).total_seconds()
        for one in matchers:
            matcher(one)
    except Expected as expected:
        console.fail(f"--for: expected {expected}, got {lasts!r}")
    except SilenceError as error:
        console.fail(str(error))
    if not by:
        try:
            by = getpass.getuser()
        except (KeyError, OSError):  # a user without a name, as containers have it
            console.fail("--by: say who silences; this user has no name")
    body = {"matchers": matchers, "seconds": seconds, "comment": comment, "author": by}
    made = _ask(console.settings(), "POST", "/silences", body)
    if as_json:
        console.print_json(made)
    else:
        console.note(f"silence {made['silence_id']} holds until {made['until']}")


def unsilence(silence_id: Annotated[str, typer.Argument(help="As `list` shows it.")], as_json: AsJson = False) -> None:
    """End a silence now."""
    from urllib.parse import quote

    ended = _ask(console.settings(), "DELETE", f"/silences/{quote(silence_id, safe='')}", {})
    if as_json:
        console.print_json(ended)
    else:
        console.note(f"silence {silence_id} has ended")


def history(
    since: Annotated[str, typer.Option(help="How far back, such as 24h.")] = "24h",
    rule: Annotated[str, typer.Option(help="This rule only.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many events at most.")] = 200,
    as_json: AsJson = False,
) -> None:
    """What has changed, newest first."""
    from analytics.definition_values import Expected, duration
    from penstock.warehouse_client import AskError, dicts

    try:
        start = datetime.now(UTC) - duration(since)
    except Expected as expected:
        console.fail(f"--since: expected {expected}, got {since!r}")
    quoted = rule.replace("\\", "\\\\").replace("'", "\\'")
    only = f"AND rule = '{quoted}'" if rule else ""
    sql = _HISTORY.format(since=round(start.timestamp() * 1e6), only=only, limit=limit)
    try:
        rows = dicts(console.settings(), sql)
    except AskError as error:
        console.fail(str(error))
    for one in rows:
        one["started_at"], one["changed_at"] = (_time(int(one.pop(name))) for name in ("started", "changed"))
    if as_json:
        console.print_json(rows)
        return
    console.print_table(
        ("at", "state", "severity", "rule", "labels", "summary", "told"),
        [
            (
                *(one[name] for name in ("changed_at", "state", "severity", "rule")),
                _labels(one["labels"]),
                one["summary"],
                _told(one["delivered"]),
            )
            for one in rows
        ],
    )


def trial(
    file: Annotated[Path | None, typer.Argument(help="A file of rules to try; else those that are in use.")] = None,
    send: Annotated[bool, typer.Option("--send", help="Send each receiver an alert that says it is a trial.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at rules now and say what each finds; nothing is raised. Exit status 1 where a rule or receiver fails."""
    from analytics.alert_rules import AlertRuleError, read_rules

    body: dict[str, Any] = {"send": send}
    if file is not None:
        try:
            read_rules(file)
        except AlertRuleError as error:
            console.fail(str(error))
        body |= {"rules": file.read_text("utf-8"), "name": file.name}
    found = _ask(console.settings(), "POST", "/test", body)
    if as_json:
        console.print_json(found)
    else:
        rows = [
            (
                one["rule"],
                one["asks"],
                one["when"],
                one["samples"],
                len(one["alerts"]),
                one["error"] or "; ".join(alert["summary"] for alert in one["alerts"]),
            )
            for one in found["rules"]
        ]
        console.print_table(("rule", "asks", "when", "samples", "would hold", "what"), rows)
        for one in found.get("receivers", []):
            console.note(f"{one['receiver']}: {one['error'] or 'took it'}")
    if any(one["error"] for one in (*found["rules"], *found.get("receivers", []))):
        raise typer.Exit(1)


def _ask(settings: Settings, method: str, path: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the process that holds the warehouse answers under /api/alerts."""
    import json

    from penstock.warehouse_client import AskError, request

    sent = None if body is None else json.dumps(body).encode()
    try:
        text = request(settings, method, f"/api/alerts{path}", sent, kind="application/json", timeout=_SECONDS)
    except AskError as error:
        console.fail(str(error))
    found: dict[str, Any] = json.loads(text)
    return found


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()) if value)


def _told(delivered: dict[str, str]) -> str:
    said = [name if mark[:4].isdigit() else f"{name} ({mark or 'not yet'})" for name, mark in sorted(delivered.items())]
    return ", ".join(said)


def _time(micros: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat(timespec="seconds")
