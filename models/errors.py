"""Everything that can go wrong with a model, as one tree, so that a caller catches as much of it as it can answer for.

ModelError
├── InvalidInputError      what a sender gave does not fit the signature: INVALID_ARGUMENT
├── SignatureError         a signature that contradicts itself
├── ArtifactError          bytes, manifest or folder are not what they must be: the version never serves
│   ├── ManifestError      the manifest cannot be read; names the key
│   ├── StoreError         the store does not answer, or does not take what it is given
│   └── UnknownModelError  no such model or version; names those there are: UNKNOWN_MODEL
├── BudgetError            the memory budget has no room for a version: it never serves under this budget
├── DeviceError            the device asked for cannot be had
├── PlanError              what is asked of a plan makes no sense or cannot be had
│   └── GraphError         an ONNX graph whose tensors cannot be read or sized
└── InferenceError         the model raised, or answered what its signature does not say: INFERENCE_FAILED
    ├── DeviceOutOfMemoryError   it ran out of memory; fewer rows may fit
    └── DeviceLostError          the device failed, not the model: no other batch will fare better
"""

from __future__ import annotations


class ModelError(Exception):
    """Any failure of `models`; its text is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InvalidInputError(ModelError, ValueError):
    """Input that does not fit the signature: which field, what was expected of it, what came."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field, self.expected, self.got = field, expected, got

    def __reduce__(self) -> tuple[type[InvalidInputError], tuple[str, str, str]]:
        return type(self), (self.field, self.expected, self.got)


class SignatureError(ModelError, ValueError):
    """A signature that contradicts itself."""


class ArtifactError(ModelError):
    """Model bytes, manifest or folder that are not what they must be."""


class ManifestError(ArtifactError):
    """A manifest that cannot be read."""


class StoreError(ArtifactError):
    """A store that does not answer, or that does not take what it is given (a full disk, missing rights)."""


class UnknownModelError(ArtifactError, LookupError):
    """A model or version that the store does not hold."""


class BudgetError(ModelError):
    """A version for which the memory budget has no room; names its need and the budget."""


class DeviceError(ModelError):
    """A device that was asked for and cannot be had."""


class PlanError(ModelError, ValueError):
    """Something that cannot be planned: which input, what was expected of it, what came, or why it cannot be had."""


class GraphError(PlanError):
    """An ONNX file whose tensors cannot be read or sized; names the file and the tensor or axis."""


class InferenceError(ModelError):
    """A model that raised on a batch, or answered something its signature does not say."""


class DeviceOutOfMemoryError(InferenceError):
    """A batch that did not fit into the device's memory."""


class DeviceLostError(InferenceError):
    """A device that failed in the middle of a run; CUDA's errors stay until the process ends."""


def shown(value: object, limit: int = 60) -> str:
    """A value for an error message: its repr, cut, without line breaks."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
