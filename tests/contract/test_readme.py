"""The lines that README.md tells a newcomer to copy do what it says, on the stack it says to start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.settings import Settings, StackSettings
from penstock.stack import LocalStack

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:9092"


def test_the_lines_of_python_send_a_request_to_what_penstock_up_has_started(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert f'"{ADDRESS}"' in program
    with LocalStack(Settings(stack=StackSettings(state=str(tmp_path))), ingest=False) as stack:
        # Somebody else's broker may have that port here; then the stack says that it took another.
        program = program.replace(ADDRESS, stack.addresses["broker"])
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    version, probability = re.fullmatch(r"(\d+) \[(0\.\d+)\]\n", done.stdout).groups()  # type: ignore[union-attr]
    assert version == "2"
    assert 0 < float(probability) < 1
