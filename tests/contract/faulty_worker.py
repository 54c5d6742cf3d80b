"""`penstock` on a device that fails as a file says: the seam is the session, and nothing of the product knows of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faulty_session import FaultFile, opening

from models.session import Session
from penstock.cli import main

if __name__ == "__main__":
    Session.open = opening(FaultFile(Path(os.environ["TEST_FAULTS"])))  # type: ignore[method-assign]
    main()
