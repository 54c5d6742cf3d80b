"""Whether callers of one version can be answered by another: what differs between two signatures, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from models.signature import Signature
from models.specs import FeatureSpec, TensorSpec


def signature_change(before: Signature, after: Signature) -> str:
    """What a caller of `before` would miss or have to change with `after`; "" where nothing.

    Names of symbolic axes mean nothing to a caller, and another output is one it need not read.
    """
    for side, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        if found := _tensors(side, old, new):
            return found
    if found := _features(before.features, after.features):
        return found
    if before.score is not None and after.score != before.score:
        new_score = "none" if after.score is None else f"{after.score.output!r} {after.score.index}"
        return f"the score was output {before.score.output!r} {before.score.index}, it is {new_score}"
    return ""


def _tensors(side: str, before: Sequence[TensorSpec], after: Sequence[TensorSpec]) -> str:
    found = {one.name: one for one in after}
    for one in before:
        if one.name not in found:
            return f"{side} {one.name!r} is gone; there are {', '.join(found)}"
        old, new = _plain(one), _plain(found[one.name])
        if old != new:
            return f"{side} {one.name!r} was {old}, it is {new}"
    extra = sorted(found.keys() - {one.name for one in before})
    return f"input {extra[0]!r} is new" if side == "input" and extra else ""


def _plain(spec: TensorSpec) -> str:
    extents = [str(one) if isinstance(one, int) and one > 0 else "any" for one in spec.shape]
    return f"{spec.datatype} [{', '.join(extents)}]"


def _features(before: Sequence[FeatureSpec], after: Sequence[FeatureSpec]) -> str:
    old, new = ({one.name: one for one in features} for features in (before, after))
    if gone := sorted(old.keys() - new.keys()):
        return f"feature {gone[0]!r} is gone"
    for name, one in new.items():
        if name not in old:
            if one.required:
                return f"feature {name!r} is new, and required"
        elif one.required and not old[name].required:
            return f"feature {name!r} is required now"
        elif bool(one.vocabulary) != bool(old[name].vocabulary):
            return f"feature {name!r} was {_kind(old[name])}, it is {_kind(one)}"
    return ""


def _kind(feature: FeatureSpec) -> str:
    return "a category" if feature.vocabulary else "a number"
