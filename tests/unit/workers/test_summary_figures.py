"""What a summary says of scores, and on whose time that is found out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from stream_workers.summary_figures import score_figures

# More than the number from which on OpenBLAS has a product done by several threads.
MANY = 20_000
TIMED = f"""
import time
import numpy as np
from stream_workers.summary_figures import score_figures
scores = np.random.default_rng(1).random({MANY})
score_figures(scores)
time.sleep(0.2)  # threads that were made on import have gone to sleep
process, own = time.process_time(), time.thread_time()
for _ in range(200):
    score_figures(scores)
    time.sleep(0.001)
print(time.process_time() - process, time.thread_time() - own)
"""


@pytest.mark.parametrize("rows", [0, 1, 3, MANY])
def test_figures_are_those_of_the_scores_that_are_finite(rows: int) -> None:
    scores = np.random.default_rng(rows).normal(0.5, 0.2, rows)
    scores[::3] = np.nan
    scores[1::7] = np.inf
    known = [one for one in scores.tolist() if np.isfinite(one)]
    figures = score_figures(scores)
    assert figures["score_count"] == len(known)
    assert figures["score_sum"] == pytest.approx(sum(known))
    assert figures["score_sum_squares"] == pytest.approx(sum(one * one for one in known))
    assert sum(figures["score_histogram"]) == len(known)


def test_a_large_batch_is_summed_up_by_the_thread_that_asks() -> None:
    """A thread of BLAS that spins beside a worker took a third of its two cores, and bulk lost as much."""
    done = subprocess.run([sys.executable, "-c", TIMED], check=True, capture_output=True, text=True)
    process, own = map(float, done.stdout.split())
    assert process < own * 1.3 + 0.02
