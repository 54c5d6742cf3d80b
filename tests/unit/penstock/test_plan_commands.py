"""`penstock plan`: the figures of its page, JSON, and one line for what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from models.registry import ModelStore
from penstock.bench.onnx_file import mlp
from penstock.cli import build
from tests.onnx_models import node, write

EXAMPLE = ("capacity", "--rate", "1000", "--service", "1:50ms,32:60ms")


def penstock(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["plan", *arguments])


def answer(*arguments: str) -> Any:
    result = penstock(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_example_needs_two_devices_and_fifty_without_batching() -> None:
    found = answer(*EXAMPLE, "--cost", "2.5")
    assert (found["devices"], found["devices_to_keep_up_without_batching"], found["partitions"]) == (2, 50, 8)
    assert (found["cost_per_hour"], found["largest_measured_rows"]) == (5.0, 32)
    assert found["largest_batch_rows"] <= 32
    text = penstock(*EXAMPLE)
    assert "50 devices" in text.stdout
    assert "2 devices, 533 requests/s each in batches of 32 rows" in text.stdout
    assert text.stderr == ""


def test_a_p99_takes_more_devices_and_a_failure_is_told() -> None:
    found = answer(*EXAMPLE, "--p99", "130ms", "--fail", "--takeover", "5s", "--watch", "60s")
    assert found["devices"] == 3
    assert found["p99_ms"] <= 130
    failure = found["failure"]
    assert (failure["takers"], failure["takeover_seconds"], failure["keeps_up"]) == (2, 5.0, True)
    assert failure["longest_ms"] > 5000
    shown = penstock(*EXAMPLE, "--devices", "2", "--fail", "--takeover", "2s", "--watch", "20s")
    assert "never: the others cannot keep up with all of it" in shown.stdout
    assert "none" in shown.stdout  # there is no p99 after
    back = penstock(*EXAMPLE, "--devices", "2", "--fail", "--takeover", "2s", "--back", "10s", "--watch", "20s")
    assert "not within the 20 s that were watched" in back.stdout


def test_batches_beyond_what_was_measured_are_simulated_only_on_demand_and_said() -> None:
    shown = penstock(*EXAMPLE, "--max-rows", "4096", "--devices", "2")
    assert shown.exit_code == 0
    assert "rows were simulated, of up to 32 measured: beyond, the last line is drawn on" in shown.stderr
    high = penstock(*EXAMPLE[:2], "1060", *EXAMPLE[3:])
    assert "a device that gets 99% of what it can serve hardly works off a queue: ask for a --p99" in high.stderr


def test_a_sweep_is_a_row_for_each_rate() -> None:
    sweep = ("capacity", "--service", "1:1ms,64:2ms", "--sweep", "1000,1e5")
    found = answer(*sweep, "--cost", "1")
    assert [one["requests_per_second"] for one in found] == [1000, 100_000]
    assert found[1]["devices"] == 4  # 64 rows in 2 ms are 32,000 a second each
    assert "100,000" in penstock(*sweep).stdout


def test_a_model_of_the_store_is_measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_MODELS__STORE", str(tmp_path / "models"))
    file = tmp_path / "m.onnx"
    file.write_bytes(mlp((4, 3, 1)))
    ModelStore(tmp_path / "models").add_onnx("tiny", "1", file)
    result = penstock("capacity", "--model", "tiny", "--rate", "100", "--json")
    assert "tiny 1 on cpu: 1 rows in " in result.stderr
    found = json.loads(result.stdout)
    assert found["devices"] == 1
    assert found["largest_measured_rows"] > 1
    # Its limits alone, where the times are given.
    given = answer("capacity", "--model", "tiny", "--service", "1:50ms,32:60ms")
    assert given["largest_measured_rows"] == 32
    memory = answer("memory", "tiny", "--batch", "1,100")
    assert memory["weight_bytes"] == 4 * (4 * 3 + 3 + 3 + 1)
    assert [one["rows"] for one in memory["batches"]] == [1, 100]


def test_seventy_billion_parameters() -> None:
    found = answer("memory", "llama-2-70b", "--card", "H100-80GB", "--card", "mine=400")
    assert (found["parameters"], found["weight_bytes"]) == (68_976_648_192, 137_953_296_384)
    assert found["cache_bytes_of_token"] == 327_680
    assert [(one["card"], one["cards"]) for one in found["cards"]] == [("H100-80GB", 2), ("mine", 1)]
    text = penstock("memory", "llama-2-70b").stdout
    assert "138 GB" in text
    assert "0.328 MB" in text
    many = answer("memory", "llama-2-70b", "--kv-heads", "64")
    assert many["cache_bytes_of_token"] == 2_621_440
    four = answer("memory", "llama-2-70b", "--dtype", "int4", "--group", "0", "--cache", "int8")
    assert four["weight_bytes"] / 1e9 == pytest.approx(35.33, rel=0.002)
    assert four["cache_bytes_of_token"] == 163_840


def test_a_split_of_ones_own_may_be_too_small() -> None:
    found = answer("memory", "llama-2-70b", "--tensor", "2", "--card", "A100-40GB", "--card", "H200")
    assert [one["fits"] for one in found["cards"]] == [False, True]
    assert "0, too few" in penstock("memory", "llama-2-70b", "--tensor", "2", "--card", "A100-40GB").stdout
    none = penstock("memory", "llama-2-70b", "--card", "tiny=1")
    assert "none of the cards is enough" in none.stderr


def test_a_transformer_of_ones_own_and_one_of_a_config(tmp_path: Path) -> None:
    own = ("--layers", "2", "--hidden", "64", "--heads", "4", "--intermediate", "128", "--vocabulary", "100")
    found = answer("memory", *own, "--sequences", "3", "--length", "10")
    assert found["parameters"] == 2 * (4 * 64 * 64 + 3 * 64 * 128 + 128) + 2 * 100 * 64 + 64
    assert found["cache_bytes"] == 30 * 2 * 2 * 64 * 2
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 64,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "intermediate_size": 128,
                "vocab_size": 100,
            }
        )
    )
    assert answer("memory", str(config))["parameters"] == found["parameters"]
    assert answer("memory", str(config), "--layers", "4")["parameters"] > found["parameters"]


def test_an_onnx_file(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(mlp((32, 64, 64, 1)))
    found = answer("memory", str(file), "--batch", "1000", "--card", "T4")
    (batch,) = found["batches"]
    # Two layers of 64 are live at once; a worker keeps its block besides.
    assert (batch["live_bytes"], batch["input_bytes"]) == (2 * 64 * 4000, 32 * 4000)
    assert batch["total_bytes"] == found["weight_bytes"] + batch["kept_bytes"] + 32 * 4000
    assert found["weight_bytes_as"]["fp16"] * 2 == found["weight_bytes_as"]["fp32"] == found["weight_bytes"]
    (card,) = found["cards"]
    rows = card["largest_batch_rows"]
    (largest,) = answer("memory", str(file), "--batch", str(rows), "--card", "T4")["batches"]
    assert largest["total_bytes"] == pytest.approx(0.9 * 16e9, rel=0.001)
    text = penstock("memory", str(file))
    assert "kept by a worker" in text.stdout
    assert "fp16 " in text.stderr


def test_an_onnx_file_that_fixes_its_rows_fits_or_does_not(tmp_path: Path) -> None:
    file = write(
        tmp_path / "m.onnx",
        [node("MatMul", ["x", "w"], ["y"])],
        [("x", "FP32", (16, 1000))],
        [("y", "FP32", (16, 1000))],
        {"w": np.ones((1000, 1000), np.float32)},
    )
    found = answer("memory", str(file), "--batch", "1,64", "--card", "T4", "--card", "tiny=0.004")
    assert [one["input_bytes"] for one in found["batches"]] == [64_000, 64_000]
    assert [(one["largest_batch_rows"], one["fits"]) for one in found["cards"]] == [(None, True), (None, False)]
    assert "fits; the file fixes its rows" in penstock("memory", str(file), "--card", "T4").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("capacity",), "--service: say what batches take, such as 1:50ms,32:60ms, or name a --model"),
        (("capacity", "--service", "50ms"), "--service: expected ROWS:TIME,... such as 1:50ms,32:60ms, got '50ms'"),
        (("capacity", "--service", "1:fast"), "--service: expected a time such as 50ms or 1.5s, got 'fast'"),
        (("capacity", "--service", "8:1ms,4:2ms"), "service time: rows must ascend, got 4 after 8"),
        ((*EXAMPLE, "--rate", "0"), "rate: expected more than 0 requests a second, got 0"),
        ((*EXAMPLE, "--p99", "40ms"), "p99: 40 ms cannot be had: a request that meets nobody takes 55 ms"),
        ((*EXAMPLE, "--arrivals", "rush"), "arrivals: expected poisson or steady, got 'rush'"),
        ((*EXAMPLE, "--partitions", "1"), "partitions: 1 are too few"),
        ((*EXAMPLE, "--devices", "9", "--partitions", "8"), "9 devices need 9 partitions or more, there are 8"),
        ((*EXAMPLE, "--max-wait", "-1"), "--max-wait: expected a time"),
        ((*EXAMPLE, "--sweep", "1000,many"), "--sweep: expected numbers of more than 0, such as 1000,1e6, got 'many'"),
        ((*EXAMPLE, "--model", "nobody"), "nobody"),
        (("memory",), "--layers: a transformer of your own needs it; or name a MODEL"),
        (("memory", "nobody"), "nobody: no such ONNX file, transformer or model of the store"),
        (("memory", "missing.onnx"), "missing.onnx: it cannot be read: No such file"),
        (("memory", "missing.json"), "missing.json: it cannot be read: No such file"),
        (("memory", "llama-2-7b", "--card", "H300"), "card: no 'H300' is listed; there are T4,"),
        (("memory", "llama-2-7b", "--dtype", "int3"), "dtype: expected one of fp32,"),
        (("memory", "x.onnx", "--layers", "2"), "--layers: x.onnx is no transformer"),
        (("memory", "x.onnx", "--axis", "seq"), "--axis: expected NAME=LENGTH, such as seq=128, got 'seq'"),
        (("memory", "x.onnx", "--batch", "1.5"), "--batch: expected whole numbers such as 1,8,32, got 1.5"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = penstock(*arguments)
    assert result.exit_code == 2, result.stdout
    assert result.stderr.startswith("penstock: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
