"""Commands speak one language: results to standard output, the rest to standard error, failures in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import penstock.commands
from penstock import console
from penstock.cli import build


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=60
    )


def test_failing_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        console.fail("no such\n  model", code=3)
    out, err = capsys.readouterr()
    assert (out, err, caught.value.exit_code) == ("", "penstock: no such model\n", 3)


def test_json_has_null_where_a_number_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    document = {"auc": float("nan"), "rows": np.int64(3), "p99": np.float32("inf"), "path": Path("a"), "é": [1.5]}
    console.print_json(document)
    out = capsys.readouterr().out
    assert json.loads(out) == {"auc": None, "rows": 3, "p99": None, "path": "a", "é": [1.5]}


def test_a_table_in_a_pipe_keeps_its_rows_whole_and_takes_brackets_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("what", "rows"), [("x" * 500, 1), ("[bold]y", None)], title="t")
    out = capsys.readouterr().out
    assert "x" * 500 in out
    assert "[bold]y" in out
    assert "None" not in out


def test_a_wrong_setting_ends_a_command_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("kafka.partitions = 0")
    done = command("up", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("penstock: penstock.toml: kafka.partitions = 0: expected")
    assert done.stderr.count("\n") == 1


def test_a_broker_nobody_knows_is_refused(tmp_path: Path) -> None:
    done = command("up", "--broker", "rabbit", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "penstock: broker 'rabbit' is neither embedded, nor kafka, nor HOST:PORT\n"
    assert not (tmp_path / ".penstock").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "--foo"), "No such option: --foo; see "),
        (("request", "m", "--timeout", "0"), "'--timeout': expected greater than or equal to 0.001; see "),
        (("flights", "export", "x", "--from", "2013-99-99"), "'--from': '2013-99-99' does not match the formats"),
        (("request",), "Missing argument 'model'; see "),
        (("models",), "Missing command; see "),
        (("nosuch",), "No such command 'nosuch'; see "),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_where_the_help_is(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("penstock: ")
    assert said in done.stderr
    assert done.stderr.endswith(" --help\n")
    assert done.stderr.count("\n") == 1


def test_properties_that_do_not_go_together_are_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("PENSTOCK_KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN")
    done = command("topics", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("penstock: Kafka: Failed to create")
    assert done.stderr.endswith("sasl.username and sasl.password must be set\n")
    assert done.stderr.count("\n") == 1


def test_every_command_takes_json() -> None:
    def leaves(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
        for key, one in group.commands.items():
            if hasattr(one, "commands"):
                yield from leaves(one, f"{name} {key}")
            else:
                yield f"{name} {key}", one

    found = dict(leaves(typer.main.get_command(build())))
    assert len(found) > 15
    assert [name for name, one in found.items() if not any("--json" in option.opts for option in one.params)] == []


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['penstock', '--help']\n"
        "from penstock.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'chdb', 'onnxruntime', 'pyarrow', 'torch', 'confluent_kafka', 'numpy', 'scipy', 'faust', 'fastapi'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "up" in done.stdout


def test_a_worker_starts_without_what_only_the_monitor_needs(tmp_path: Path) -> None:
    script = (
        "import sys, penstock.commands.worker, stream_workers.scoring\n"
        "heavy = {'scipy', 'faust', 'chdb', 'pyarrow', 'torch', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_of_commands_registers_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "found_by_name.py").write_text(
        "def register(app):\n    @app.command()\n    def hello():\n        print('hello')\n"
    )
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not a command')\n")
    monkeypatch.setattr(penstock.commands, "__path__", [str(tmp_path)])
    assert [one.callback.__name__ for one in build().registered_commands if one.callback] == ["hello"]
