"""What a rollout's step has shown: the candidate's figures beside the current version's, held against guardrails. Pure.

Both are judged twice: over the whole step, and over its last minute, so that what breaks late in a long step is not
lost in what went well before. A limit that is exceeded is a breach only where the candidate is to blame, by the rule of
the live monitor (`guardrails.at_fault`): what befalls both holds the rollout up, and does not end it.

The two versions have different users, and a user's scores are alike. So what noise may do to a shift of scores goes by
the number of users, not of rows: a step of few users is no sample of many rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Final

from models.rollout import Guard, Rollout
from schemas.codes import Code
from schemas.records import BatchSummary
from stream_workers.guardrails import BLAME, P99, SCORES, Limits, Reading, at_fault, began, read, summary
from stream_workers.monitor_shift import shift_of
from stream_workers.monitor_windows import MICRO, Figures, Series, Windows

WIDTH: Final = 60 * MICRO
PANE: Final = 5 * MICRO
# Below this, a multiple of the current p99 is a whim of the scheduler and of the histogram's bounds.
FLOOR_MS: Final = 50.0
# What noise does to a histogram is known from about so many in each bin (Cochran, "The chi-square test of goodness of
# fit", 1952).
USERS_PER_BIN: Final = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """See `models.rollout.Evidence`."""

    requests: int
    breach: str
    trouble: str


@dataclass(slots=True)
class StepEvidence:
    """The summaries of one step of one rollout."""

    rollout: Rollout
    candidate: Figures = field(init=False, default_factory=Figures)
    current: Figures = field(init=False, default_factory=Figures)
    windows: Windows = field(init=False, default_factory=lambda: Windows(WIDTH, PANE))

    def add(self, one: BatchSummary, offset: int, *, shadow: bool, wall: int) -> None:
        """Count a summary of request scoring, where it is of this step. `shadow`: it is of the topic of shadows."""
        version = one.version
        is_candidate = version == self.rollout.candidate and shadow == (self.rollout.mode == "shadow")
        is_current = version == self.rollout.current and not shadow
        if one.model != self.rollout.model or one.variant or one.scored_at < self.rollout.since:
            return
        if not is_candidate and not is_current:
            return
        # A deadline that passed is a matter of latency.
        errors = {code: rows for code, rows in one.errors.items() if code != Code.DEADLINE_EXCEEDED.value}
        figures = replace(Figures.of(one), features={}, errors=errors)
        if is_candidate:
            self.candidate += figures
        else:
            self.current += figures
        # A worker's clock that is ahead would make everybody else's records late.
        at = min(one.scored_at, wall)
        self.windows.advance(at)
        self.windows.add(self._series(version), at, figures, offset)

    def verdict(self, users: int) -> Verdict:
        """What the figures so far say. `users`: how many the candidate had, at least."""
        breaches: list[str] = []
        troubles: list[str] = []
        for fault, words in self._exceeded(users):
            (breaches if fault else troubles).append(words)
        requests = self.candidate.requests
        return Verdict(requests, "; ".join(breaches[:1]), "; ".join(troubles[:1]))

    @property
    def baseline(self) -> dict[str, object]:
        """The current version's figures, for the step after this; empty where there are too few to compare with."""
        enough = self.current.rows >= self.rollout.guard.min_rows
        return replace(self.current, errors=dict(self.current.errors)).to_json() if enough else {}

    def _series(self, version: str) -> Series:
        return Series(self.rollout.model, version)

    def _exceeded(self, users: int) -> Iterator[tuple[bool, str]]:
        """Every limit that is exceeded: whether by the candidate's fault, and a line."""
        mine, its = self._series(self.rollout.candidate), self._series(self.rollout.current)
        pairs = [(self.candidate, self.current), (self.windows.total(mine), self.windows.total(its))]
        before = Figures.from_json(self.rollout.baseline)
        for lasting, (own, other) in enumerate(pairs):
            beside = other if other.rows >= self.rollout.guard.min_rows else before
            limits = limits_of(self.rollout.guard, beside, shadow=self.rollout.mode == "shadow")
            control = read(its, beside, limits, None, in_variant=True)
            readings = [*read(mine, own, limits, None, in_variant=True), self._shift(own, beside, users)]
            for reading in readings:
                if reading.breached:
                    fault, why = self._fault(reading, own, beside, control)
                    # What befell both and is over does not hold up the rest of the step.
                    if fault or lasting:
                        yield fault, f"{summary(began(reading, mine, 0))} ({why})"

    def _fault(self, reading: Reading, own: Figures, beside: Figures, control: Sequence[Reading]) -> tuple[bool, str]:
        """Whether the candidate is to blame, and why, in a line.

        Of latency its own runs tell, by the batch and by the row: a worker that dies makes both late, the last step has
        nobody beside it; and batches after a backlog are large.
        """
        if reading.rule == SCORES:
            return True, f"version {self.rollout.current} over the same time"
        if reading.rule != P99 or not beside.rows:
            return at_fault(reading.rule, reading, control)
        mine, its = (one.infer_us / max(one.batches, 1) / 1000 for one in (own, beside))
        slower = mine > BLAME * its and own.infer_us * beside.rows > BLAME * beside.infer_us * own.rows
        return slower, f"a batch runs {mine:.4g} ms, of version {self.rollout.current} {its:.4g} ms"

    def _shift(self, own: Figures, beside: Figures, users: int) -> Reading:
        """Scores against the current version's."""
        guard = self.rollout.guard
        enough = guard.score_psi is not None and min(own.scored, beside.scored) >= guard.min_rows
        mine, its = float(max(own.scored, 1)), float(max(beside.scored, 1))
        if self.rollout.mode == "canary" and enough:
            enough = users >= USERS_PER_BIN * sum(map(any, zip_longest(own.scores, beside.scores, fillvalue=0)))
            share = self.rollout.share
            # The current version's users are the others, as many for each of ours as there are shares of them.
            others = users * (1 - share) / share if 0 < share < 1 else users
            mine, its = min(mine, max(users, 1)), min(its, max(others, 1))
        # Of a few users none may be in a bin; that says no more than that it is not half a user's.
        shift = shift_of(own.scores, beside.scores, beside.scored, unseen=(0.5 / mine, 0.5 / its))
        rows = 1 / max(own.scored, 1) + 1 / max(beside.scored, 1)
        noise = shift.noise * (1 / mine + 1 / its) / rows
        threshold = max(guard.score_psi or math.inf, noise)
        return Reading(SCORES, shift.psi, threshold, shift.n, enough, evidence={"psi": shift.psi, "noise": noise})

    @property
    def seen(self) -> str:
        """The candidate's figures in a line."""
        figures = self.candidate
        if not figures.rows:
            return "no request"
        readings = {one.rule: one for one in read(self._series(self.rollout.candidate), figures, Limits(), None)}
        p99: Reading = readings[P99]
        failed = sum(figures.errors.values())
        return f"{figures.requests:,} requests, {failed:,} rows failed, p99 {p99.value:.0f} ms"


def limits_of(guard: Guard, beside: Figures, *, shadow: bool) -> Limits:
    """A guard as limits, given the current version's figures. Nobody waits for a shadow, so it has no p99."""
    p99 = [] if guard.p99_ms is None else [guard.p99_ms]
    if guard.p99_ratio is not None and beside.timed >= guard.min_rows:
        p99.append(max(FLOOR_MS, guard.p99_ratio * beside.latency_ms(0.99)))
    return Limits(
        p99_ms=None if shadow or not p99 or not math.isfinite(min(p99)) else min(p99),
        error_rate=guard.error_rate,
        min_rows=guard.min_rows,
    )
