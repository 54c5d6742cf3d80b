"""`penstock experiments report` and the way a reading takes to it; what the demo shows at its end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import typer
from fastapi import FastAPI
from typer.testing import CliRunner

from analytics.definitions import DefinitionError
from analytics.reading_json import reading_from_document
from analytics.readings import Reading
from analytics.warehouse import WarehouseError, WarehouseUnavailableError
from benchmarks.simulated_reading import simulated_reading
from penstock.commands import _experiment_report as command
from penstock.demo_experiment import demo_experiment
from penstock.experiment_reading import ReadingUnavailableError, ask, serve
from penstock.report_file import ReportFileError, write
from penstock.settings import HttpSettings, Settings
from penstock.warehouse_app import AppServer

FAILURES = {
    "gone": WarehouseUnavailableError("ClickHouse does not answer at nowhere:8123"),
    "refused": WarehouseError("the table experiment_stats is not there"),
}


class Looks:
    """The process that holds the warehouse, of one experiment with nine looks."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    def __call__(self, name: str, look: int | None) -> Reading:
        self.asked.append((name, look))
        if name in FAILURES:
            raise FAILURES[name]
        if name not in ("search-ranking", "a b/c"):
            raise DefinitionError(f"there is no experiment {name!r}")
        if look is not None and look > 9:
            raise DefinitionError(f"experiment {name!r} has had 9 looks, there is no look {look}")
        return simulated_reading(look or 9)


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def server(looks: Looks) -> Iterator[AppServer]:
    app = FastAPI()
    serve(app, looks)
    with AppServer(app, "127.0.0.1", 0) as one:
        yield one


@pytest.fixture
def settings(server: AppServer) -> Settings:
    return Settings(http=HttpSettings(warehouse_port=server.port))


def run(*arguments: str) -> tuple[int, str, str]:
    group = typer.Typer()
    command.register(group)
    # With one command alone typer would take its name for an argument.
    group.command("other")(lambda: None)
    result = CliRunner().invoke(group, ["report", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def penstock(server: AppServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(server.port))
    monkeypatch.chdir(tmp_path)


def test_a_reading_comes_over_http_as_it_was_found(settings: Settings, looks: Looks) -> None:
    assert ask(settings, "search-ranking") == simulated_reading(9)
    assert ask(settings, "search-ranking", 4) == simulated_reading(4)
    assert ask(settings, "a b/c", 2).number == 2
    assert looks.asked == [("search-ranking", None), ("search-ranking", 4), ("a b/c", 2)]


@pytest.mark.parametrize(
    ("name", "look", "status", "said"),
    [
        ("nobody", None, 404, "there is no experiment 'nobody'"),
        ("search-ranking", 10, 404, "experiment 'search-ranking' has had 9 looks, there is no look 10"),
        ("gone", None, 503, "ClickHouse does not answer at nowhere:8123"),
        ("refused", None, 400, "the table experiment_stats is not there"),
    ],
)
def test_what_is_not_there_is_one_line(
    server: AppServer, settings: Settings, name: str, look: int | None, status: int, said: str
) -> None:
    answer = httpx.get(f"{server.url}/reading", params={"experiment": name} | ({} if look is None else {"look": look}))
    assert (answer.status_code, answer.json()) == (status, {"error": said})
    with pytest.raises(ReadingUnavailableError) as caught:
        ask(settings, name, look)
    assert str(caught.value) == said


def test_a_process_that_is_another_is_named_as_such() -> None:
    with AppServer(FastAPI(), "127.0.0.1", 0) as stranger:
        settings = Settings(http=HttpSettings(warehouse_port=stranger.port))
        with pytest.raises(ReadingUnavailableError, match=r"is not Penstock's warehouse: it answers 404"):
            ask(settings, "search-ranking")
        app = FastAPI()
        app.get("/reading")(lambda: {"format": 9})
    with AppServer(app, "127.0.0.1", 0) as later:
        settings = Settings(http=HttpSettings(warehouse_port=later.port))
        with pytest.raises(ReadingUnavailableError, match="gives no reading of 'x': format: expected a reading"):
            ask(settings, "x")


@pytest.mark.usefixtures("penstock")
def test_the_command_prints_the_table() -> None:
    code, out, err = run("search-ranking")
    assert (code, err) == (0, "")
    assert "KEEP GOING" in out
    assert "bought" in out


@pytest.mark.usefixtures("penstock")
def test_the_command_writes_the_page_beside_the_table(tmp_path: Path) -> None:
    code, out, err = run("search-ranking", "--look", "3", "--html", "page.html")
    assert (code, err) == (0, "the page is page.html\n")
    assert "look 3" in out
    assert "<h1>search-ranking</h1>" in (tmp_path / "page.html").read_text("utf-8")
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.usefixtures("penstock")
def test_the_command_gives_json_and_nothing_else_on_standard_output() -> None:
    code, out, err = run("search-ranking", "--json")
    assert (code, err) == (0, "")
    assert reading_from_document(json.loads(out)) == simulated_reading(9)


@pytest.mark.usefixtures("penstock")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "penstock: there is no experiment 'nobody'\n"),
        (["search-ranking", "--look", "10"], "has had 9 looks, there is no look 10\n"),
        (["search-ranking", "--html", "no/such/page.html"], "no/such/page.html cannot be written: No such file or dir"),
    ],
)
def test_the_command_fails_in_one_line(arguments: list[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_without_a_stack_the_command_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PENSTOCK_HTTP__WAREHOUSE_PORT", str(taken.getsockname()[1]))
        code, out, err = run("search-ranking")
    assert (code, out) == (2, "")
    assert err.startswith("penstock: no warehouse answers at http://127.0.0.1:")
    assert err.endswith(": start it by `penstock up`\n")


def test_a_page_that_cannot_be_written_leaves_the_old_one_and_no_half(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.mkdir()
    with pytest.raises(ReportFileError, match=r"page.html cannot be written: Is a directory"):
        write(simulated_reading(1), path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ReportFileError, match="cannot be written: Not a directory"):
        write(simulated_reading(1), Path(__file__) / "page.html")


def test_the_demo_ends_with_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading = replace(simulated_reading(5), reason="So [bold]far[/bold] nothing is known.")
    path = demo_experiment(reading, tmp_path)
    out = capsys.readouterr().out
    assert path == tmp_path / "report.html"
    assert "<h1>search-ranking</h1>" in path.read_text("utf-8")
    assert "So [bold]far[/bold] nothing is known." in out
    assert path.as_uri() in out
