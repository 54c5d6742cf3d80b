"""The signature both delay models share, so that either can take the other's place in an experiment."""

from __future__ import annotations

from datetime import date
from typing import Final

from models.signature import Signature
from models.specs import FeatureSpec, Score, TensorSpec
from penstock.flights.data import Dataset
from penstock.flights.features import ALWAYS, CATEGORIES, NUMERIC

NUMBERS: Final = "numeric"
OUTPUT: Final = "probability"
# The vocabulary is January's, the range of version 1: airports that open later are "unseen" to both versions.
VOCABULARY_START: Final = date(2013, 1, 1)
VOCABULARY_DAYS: Final = 31


def flight_signature(data: Dataset) -> Signature:
    """`numeric` FP32 [rows, k] and one INT64 [rows] for each category in; `probability` FP32 [rows] out, the score.

    A category's index is its place in the vocabulary; what is not in it gets the index after the last.
    """
    rows = data.between(VOCABULARY_START, VOCABULARY_DAYS)
    numbers = tuple(
        FeatureSpec(name, NUMBERS, at, required=name in ALWAYS, allow_nan=name not in ALWAYS)
        for at, name in enumerate(NUMERIC)
    )
    words = {name: tuple(sorted(set(data.features[name][rows].tolist()))) for name in CATEGORIES}
    categories = tuple(FeatureSpec(name, name, None, words[name], len(words[name])) for name in CATEGORIES)
    return Signature(
        inputs=(
            TensorSpec(NUMBERS, "FP32", ("rows", len(NUMERIC))),
            *(TensorSpec(name, "INT64", ("rows",)) for name in CATEGORIES),
        ),
        outputs=(TensorSpec(OUTPUT, "FP32", ("rows",)),),
        features=(*numbers, *categories),
        score=Score(OUTPUT),
    )


def category_sizes(signature: Signature) -> list[int]:
    """How many indices each category has, its unseen one included, in the order of `CATEGORIES`."""
    sizes = {one.name: len(one.vocabulary) + 1 for one in signature.features}
    return [sizes[name] for name in CATEGORIES]
