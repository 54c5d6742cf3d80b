"""What the monitor found, as records of the topic of alerts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from schemas.records import Alert
from stream_workers.guardrails import STOPPING, Breach, summary
from stream_workers.monitor_watch import Span

SOURCE: Final = "monitor"


def alert_of(breach: Breach, span: Span, at: int, done: Mapping[str, Any]) -> Alert:
    """The record that says that a breach began (state raising), or is over.

    `at`: now, in microseconds since the epoch; `done`: what was done about it, into the evidence.
    """
    over = breach.state == "resolving"
    end = at if over else breach.began + span.pane
    return Alert(
        alert_id=breach.alert_id,
        rule=breach.rule,
        state="resolved" if over else "firing",
        raised_at=at,
        severity="critical" if breach.rule in STOPPING and breach.rule != "score_shift" else "warning",
        source=SOURCE,
        labels=breach.labels,
        summary=summary(breach),
        value=breach.value,
        threshold=breach.threshold,
        n=breach.n,
        window_start=end - span.width,
        window_end=end,
        evidence=json.dumps({**breach.evidence, **done}, ensure_ascii=False),
    )
