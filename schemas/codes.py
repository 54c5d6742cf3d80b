"""The codes a request, or a row of it, can end with: the symbols of the Avro enum `Code`, in its order."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """What became of a request. The order is the wire order and may only grow at its end."""

    OK = "OK"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INFERENCE_FAILED = "INFERENCE_FAILED"
    TOO_LARGE = "TOO_LARGE"
    UNAVAILABLE = "UNAVAILABLE"
    MALFORMED = "MALFORMED"
    INTERNAL = "INTERNAL"


CODES: Final = tuple(Code)
INDEX: Final = {code: index for index, code in enumerate(CODES)}
