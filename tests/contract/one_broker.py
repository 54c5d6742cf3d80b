"""For tests of what is the same whichever broker is there: what is refused before a record is sent or read."""

from __future__ import annotations

import pytest

on_one_broker = pytest.mark.parametrize("broker", ["embedded"], indirect=True)
