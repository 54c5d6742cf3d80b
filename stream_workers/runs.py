"""Runs a batch on one model: cut in halves where it does not fit, or until whoever made it fail is alone.

A sample tells who is to blame. Where it fails as well, no sender is, and what has no answer yet is left to another
model; where it works, the batch is halved until the culprit is alone, and only that one gets an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from models.degradation import HALF_BATCH
from models.errors import DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.loading import LoadedModel
from schemas.codes import Code
from schemas.tensors import Array


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model: when it began (monotonic seconds), how long it took, how many rows were padding.

    `degraded`: what replies say of how it was made; empty: as it should be.
    """

    dispatched: float
    seconds: float
    padded: int
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of pieces that ran together: outputs of each, or why there are none."""

    model: LoadedModel
    pieces: Sequence[Any]
    outputs: Sequence[dict[str, Array]]
    run: Run
    failure: str = ""
    code: Code = Code.INFERENCE_FAILED


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of it: what ended, and what is `left` for another model because of `error`, which is nobody's fault."""

    ended: list[Ended]
    left: list[Any] = field(default_factory=list)
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Split:
    """A run of `rows` rows that found no memory, and what its two halves came to."""

    rows: int
    halves: int = 0
    fitted: int = 0


def attempt(
    model: LoadedModel,
    pieces: Sequence[Any],
    *,
    degraded: str = "",
    ran_out: Callable[[int, int], None] = lambda _rows, _fitted: None,
) -> Attempt:
    """Run the pieces as one batch.

    `ran_out` is told of a run that found no memory, by its rows and those of its halves, where both of these did: a
    single request that asks for too much has no such halves, and so teaches nothing about the others.
    """
    done = Attempt([])
    # What is still to be run, the next one last: pieces, the split they are a half of, whether memory halved them.
    stack: list[tuple[list[Any], _Split | None, bool]] = [([*pieces], None, False)]
    judged = False
    while stack:
        part, split, halved = stack.pop()
        rows = sum(piece.rows for piece in part)
        began = monotonic()
        try:
            outputs = model.run([piece.inputs for piece in part])
        except DeviceLostError as error:
            return _left(done, part, stack, error)
        except (InferenceError, MemoryError) as error:
            short = isinstance(error, MemoryError | DeviceOutOfMemoryError)
            alone = sum(piece.count for piece in part) == 1
            if not judged and (alone or not short):
                judged = True
                if (fault := _fault(model)) is not None:
                    return _left(done, part, stack, fault)
            if alone:
                run = Run(began, monotonic() - began, 0)
                done.ended.append(Ended(model, part, (), run, str(error) or "out of memory"))
                continue
            own = _Split(model.padded_rows(rows)) if short else None
            first, second = _halves(part)
            stack += [(second, own, halved or short), (first, own, halved or short)]
            continue
        padded = model.padded_rows(rows)
        if split is not None:
            split.halves, split.fitted = split.halves + 1, max(split.fitted, padded)
            if split.halves == 2:
                ran_out(split.rows, split.fitted)
        said = degraded or (HALF_BATCH if halved else "")
        done.ended.append(Ended(model, part, outputs, Run(began, monotonic() - began, padded - rows, said)))
    return done


def together(results: Sequence[Ended]) -> list[Ended]:
    """The same results; those of runs one after another that went alike are one, and so are their runs."""
    found: list[Ended] = []
    for one in results:
        last = found[-1] if found else None
        if last is None or last.failure or one.failure or _manner(last) != _manner(one):
            found.append(one)
            continue
        run = replace(last.run, seconds=last.run.seconds + one.run.seconds, padded=last.run.padded + one.run.padded)
        found[-1] = replace(
            last, pieces=[*last.pieces, *one.pieces], outputs=[*last.outputs, *one.outputs], run=run
        )  # fmt: skip
    return found


def _manner(one: Ended) -> tuple[int, str]:
    return id(one.model), one.run.degraded


def _fault(model: LoadedModel) -> Exception | None:
    """What is wrong with the model or its device; None where a sample is scored."""
    try:
        model.probe()
    except (InferenceError, MemoryError) as error:
        return error
    return None


def _left(
    done: Attempt, part: list[Any], stack: list[tuple[list[Any], _Split | None, bool]], error: Exception
) -> Attempt:
    rest = [piece for waiting, _, _ in reversed(stack) for piece in waiting]
    return Attempt(done.ended, [*part, *rest], error)


def _halves(pieces: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Two lists of about the same number of units."""
    if len(pieces) == 1:
        first, second = pieces[0].halve()
        return [first], [second]
    middle = len(pieces) // 2
    return list(pieces[:middle]), list(pieces[middle:])
