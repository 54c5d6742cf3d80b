"""The Avro records as frozen Python records: field for field what `avro/*.avsc` says, times in microseconds UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.codes import Code

FeatureValue = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor as it travels: little-endian elements in C order, first axis rows.

    `data` may be a view of the record it came in.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class StringColumn:
    """Strings of many rows as in Arrow: row i is `data[offsets[i]:offsets[i + 1]]`, offsets little-endian int32."""

    offsets: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Column:
    """A feature or output of many rows: `data` as in `Tensor`, or `strings` for text."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    strings: StringColumn | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """A row of a `ScoreBatch` that could not be scored."""

    row: int
    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One question to a model. Key: user_id|experiment."""

    request_id: str
    model: str
    user_id: str
    sent_at: int
    version: str = ""
    experiment: str = ""
    deadline: int = 0
    reply_topic: str = ""
    reply_partition: int = -1
    inputs: tuple[Tensor, ...] = ()
    features: Mapping[str, FeatureValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Many rows in one record, for bulk scoring."""

    job: str
    sequence: int
    model: str
    sent_at: int
    reply_topic: str
    rows: int
    version: str = ""
    deadline: int = 0
    reply_partition: int = -1
    inputs: tuple[Tensor, ...] = ()
    columns: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """The one answer to a `ScoreRequest` or a `ScoreBatch`."""

    request_id: str
    code: Code
    message: str = ""
    model: str = ""
    version: str = ""
    variant: str = ""
    received_at: int = 0
    replied_at: int = 0
    outputs: tuple[Tensor, ...] = ()
    row_errors: tuple[RowError, ...] = ()
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of a `PredictionBatch` that were scored, or ended without it, together."""

    batch_id: str
    scored_at: int
    rows: int
    infer_us: int = 0


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """The prediction log of micro-batches of one version and variant, as columns of `rows` values.

    `batches` are those micro-batches, in the order of the rows; empty where it is one and nothing more is said of it.
    """

    batch_id: str
    worker: str
    device: str
    model: str
    version: str
    experiment: str
    variant: str
    topic: str
    scored_at: int
    rows: int
    request_ids: StringColumn
    user_ids: StringColumn
    partitions: bytes
    offsets: bytes
    row_numbers: bytes
    sent_at: bytes
    received_at: bytes
    codes: bytes
    messages: StringColumn
    scores: bytes
    features: tuple[Column, ...] = ()
    outputs: tuple[Column, ...] = ()
    degraded: str = ""
    batches: tuple[MicroBatch, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What micro-batches of one version and variant did, in figures that add up."""

    batch_id: str
    worker: str
    device: str
    model: str
    version: str
    experiment: str
    variant: str
    topic: str
    scored_at: int
    requests: int
    rows: int
    padded_rows: int = 0
    queue_us: int = 0
    batch_us: int = 0
    infer_us: int = 0
    latency_histogram: tuple[int, ...] = ()
    score_count: int = 0
    score_sum: float = 0.0
    score_sum_squares: float = 0.0
    score_histogram: tuple[int, ...] = ()
    errors: Mapping[str, int] = field(default_factory=dict)
    feature_histograms: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    degraded: str = ""
    batches: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What really happened, joined to predictions later. Key: user_id|experiment."""

    outcome_id: str
    user_id: str
    name: str
    value: float
    occurred_at: int
    request_id: str = ""
    experiment: str = ""
    model: str = ""
    sent_at: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read, with all that is needed to look into it or to send it again."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    detail: str
    worker: str
    failed_at: int
    headers: Mapping[str, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Control:
    """One entry of the compacted control topic. Key: kind/name."""

    kind: str
    name: str
    revision: int
    body: str
    changed_at: int
    author: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something is wrong (state firing), or is well again (resolved). Key: alert_id."""

    alert_id: str
    rule: str
    state: str
    raised_at: int
    severity: str = "warning"
    source: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    value: float = 0.0
    threshold: float = 0.0
    n: int = 0
    window_start: int = 0
    window_end: int = 0
    evidence: str = "{}"


Record = (
    ScoreRequest | ScoreBatch | ScoreReply | PredictionBatch | BatchSummary | Outcome | DeadLetter | Control | Alert
)
RECORDS: tuple[type[Record], ...] = (
    ScoreRequest,
    ScoreBatch,
    ScoreReply,
    PredictionBatch,
    BatchSummary,
    Outcome,
    DeadLetter,
    Control,
    Alert,
)
