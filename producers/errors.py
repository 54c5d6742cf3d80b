"""What can become of a request besides an answer, as exceptions a caller can tell apart.

    ScoringError                  code, message, model, request_id
    ├── InvalidArgumentError      the request does not fit the model; names the field
    ├── UnknownModelError         no such model or version; names those there are
    ├── DeadlineExceededError     the answer came too late, or not at all
    ├── InferenceFailedError      the model raised on this input
    ├── TooLargeError             the record is over the size limit
    ├── MalformedError            the record could not be read
    ├── InternalError             a fault in the worker or in the client
    ├── UnavailableError          nobody can take the request just now; try again
    │   └── BrokerUnavailableError  Kafka does not answer, or did not take the record
    └── ClientClosedError         the client was closed before the answer came

`UnavailableError` and its children may be tried again as they are; the others will fail again.

And what can end a bulk job, as opposed to a row of it (which comes out with its error beside it):

    BulkError                     the job stopped; started again it goes on where it was
    └── BulkInputError            the job cannot be done as asked: file, column, output, model

    ControlConflictError          somebody else changed a control entry meanwhile
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.codes import Code
from schemas.records import Control


class ScoringError(Exception):
    """A request that was not answered with outputs. The message is one line."""

    code: Code = Code.INTERNAL

    def __init__(self, message: str, *, model: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.model = model
        self.request_id = request_id


class InvalidArgumentError(ScoringError):
    """The request does not fit the model's signature, or is no request at all."""

    code = Code.INVALID_ARGUMENT


class UnknownModelError(ScoringError):
    """No worker has this model or version."""

    code = Code.UNKNOWN_MODEL


class DeadlineExceededError(ScoringError):
    """No answer before the deadline: the worker refused a late request, or nothing came back."""

    code = Code.DEADLINE_EXCEEDED


class InferenceFailedError(ScoringError):
    """The model raised on this input."""

    code = Code.INFERENCE_FAILED


class TooLargeError(ScoringError):
    """The record is larger than Kafka or the worker takes."""

    code = Code.TOO_LARGE


class MalformedError(ScoringError):
    """The worker could not read the record."""

    code = Code.MALFORMED


class InternalError(ScoringError):
    """A fault in the worker or in the client, not in the request."""

    code = Code.INTERNAL


class UnavailableError(ScoringError):
    """Nobody can take the request just now. It may be sent again."""

    code = Code.UNAVAILABLE


class BrokerUnavailableError(UnavailableError):
    """Kafka does not answer, a topic is missing, or a record was not taken."""


class ClientClosedError(ScoringError):
    """The client was closed before the answer came."""

    code = Code.UNAVAILABLE


class BulkError(Exception):
    """A bulk job that stopped. The message is one line."""


class BulkInputError(BulkError):
    """A bulk job that cannot be done as asked: a file, a column, the output or the model is at fault."""


_BY_CODE: Final[Mapping[Code, type[ScoringError]]] = {
    one.code: one
    for one in (
        InvalidArgumentError,
        UnknownModelError,
        DeadlineExceededError,
        InferenceFailedError,
        TooLargeError,
        MalformedError,
        InternalError,
        UnavailableError,
    )
}


def error_for(code: Code, message: str, *, model: str = "", request_id: str = "") -> ScoringError:
    """The exception of a reply's code; `InternalError` for a code this release does not know."""
    return _BY_CODE.get(code, InternalError)(message or code.value, model=model, request_id=request_id)


class ControlConflictError(Exception):
    """Somebody else changed a control entry since it was read. `held`: what holds now, None where that is not known."""

    def __init__(self, kind: str, name: str, held: Control | None) -> None:
        by = f" (by {held.author})" if held is not None and held.author else ""
        holds = f"; {kind}/{name} is now {held.body}{by}" if held is not None else ""
        super().__init__(
            f"somebody else changed {kind}/{name} at the same time{holds}; nothing was written, look again"
        )
        self.held = held
