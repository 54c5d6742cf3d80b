"""The batching example's model takes what the example says, and answers what the model answers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models.session import signature_of
from penstock.bench.onnx_file import mlp
from penstock.bench.slow_worker import SlowSession, seconds_for


def test_one_row_takes_50_ms_and_32_take_60() -> None:
    assert seconds_for(1) == pytest.approx(0.050)
    assert seconds_for(32) == pytest.approx(0.060)


def test_a_slow_session_answers_rightly_and_not_before_its_time(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(mlp((4, 3, 1)))
    signature = signature_of(file)
    rows = np.ones((32, 4), np.float32)
    session = SlowSession.open(file, signature, "cpu")
    began = time.perf_counter()
    found = session.run({"x": rows})["y"]
    assert time.perf_counter() - began >= seconds_for(32)
    plain = super(SlowSession, session).run({"x": rows})["y"]  # type: ignore[misc]
    assert np.array_equal(found, plain)
