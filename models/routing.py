"""Which variant of an experiment a user meets: hashing, shares and layers, the same in every process and in SQL.

`bucket = XXH3_64(salt + ":" + user_id) mod 10000`; variants own ranges of buckets. ClickHouse's `xxh3` is that hash.
Source of the layers: Tang et al., "Overlapping Experiment Infrastructure" (KDD 2010).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from xxhash import xxh3_64_intdigest

BUCKETS: Final = 10_000
EVERYONE: Final = ((0, BUCKETS),)
_LAYER: Final = "layer:"
Range = tuple[int, int]
Status = Literal["running", "stopped"]


class ExperimentError(ValueError):
    """A definition that cannot be used: one line naming the experiment, the key and what is expected there."""


def bucket(salt: str, user_id: str) -> int:
    """The user's bucket, 0 to 9999, under a salt."""
    return xxh3_64_intdigest(f"{salt}:{user_id}".encode()) % BUCKETS


def bucket_many(salt: str, user_ids: Iterable[str]) -> list[int]:
    """`bucket` of each user."""
    prefix = f"{salt}:".encode()
    return [xxh3_64_intdigest(prefix + user_id.encode()) % BUCKETS for user_id in user_ids]


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm of an experiment: the model version that the users in its buckets `[lo, hi)` meet."""

    name: str
    version: str
    ranges: tuple[Range, ...] = ()

    @property
    def share(self) -> float:
        """The part of the experiment's users it has, 0 to 1."""
        return sum(hi - lo for lo, hi in self.ranges) / BUCKETS


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment on one model. Users in no variant's buckets are not part of it.

    Experiments with the same `layer` exclude each other: each owns `layer_ranges` of the layer's own buckets.
    Raises `ExperimentError`.
    """

    name: str
    model: str
    salt: str
    variants: tuple[Variant, ...]
    layer: str = ""
    layer_ranges: tuple[Range, ...] = EVERYONE
    status: Status = "running"

    def __post_init__(self) -> None:
        for key in ("name", "model", "salt"):
            if not getattr(self, key):
                raise self._wrong(key, "must not be empty")
        if self.salt.startswith(_LAYER):
            raise self._wrong("salt", f"must not start with {_LAYER!r}, which salts the layers, got {self.salt!r}")
        if self.status not in ("running", "stopped"):
            raise self._wrong("status", f"must be running or stopped, got {self.status!r}")
        if not self.variants:
            raise self._wrong("variants", "needs at least one variant")
        names = [variant.name for variant in self.variants]
        for index, variant in enumerate(self.variants):
            if not variant.name:
                raise self._wrong(f"variants[{index}].name", "must not be empty")
            if names.index(variant.name) != index:
                raise self._wrong(f"variants[{index}].name", f"{variant.name!r} is there twice")
            self._check_ranges(f"variants[{index}].ranges", variant.ranges)
        clash = _overlap((variant.name, variant.ranges) for variant in self.variants)
        if clash:
            raise self._wrong("variants", f"{clash[0]!r} and {clash[1]!r} both own bucket {clash[2]}")
        self._check_ranges("layer_ranges", self.layer_ranges)
        if not self.layer and self.layer_ranges != EVERYONE:
            raise self._wrong("layer_ranges", "means nothing without a layer; name the layer")

    @classmethod
    def create(
        cls,
        name: str,
        model: str,
        shares: Mapping[str, float],
        versions: Mapping[str, str],
        *,
        salt: str = "",
        layer: str = "",
        layer_ranges: Sequence[Range] = EVERYONE,
    ) -> Experiment:
        """A running experiment from shares (0 to 1) and versions by variant. `salt` is the name unless given.

        A share counts in whole buckets, rounded down: three thirds leave one user in 10,000 outside.
        """
        for variant in (*shares, *versions):
            if variant not in shares or variant not in versions:
                raise ExperimentError(f"experiment {name!r}: variant {variant!r} needs both a share and a version")
        empty = cls(
            name=name,
            model=model,
            salt=salt or name,
            variants=tuple(Variant(variant, versions[variant]) for variant in shares),
            layer=layer,
            layer_ranges=tuple(layer_ranges),
        )
        return empty.ramp(shares)

    def ramp(self, shares: Mapping[str, float]) -> Experiment:
        """The same experiment with new shares (0 to 1); variants not named keep theirs.

        Nobody leaves a variant whose share is not lowered. What a variant gains was nobody's before, as far as that
        lasts; after it comes what others give up in the same step.
        """
        known = {variant.name for variant in self.variants}
        wanted: dict[str, int] = {variant.name: _size(variant.ranges) for variant in self.variants}
        for name, share in shares.items():
            if name not in known:
                raise self._wrong(f"shares.{name}", f"is no variant of it; it has {', '.join(sorted(known))}")
            wanted[name] = self._buckets(name, share)
        if sum(wanted.values()) > BUCKETS or math.fsum(shares.values()) > 1 + 1e-9:
            total = sum(shares.get(variant.name, variant.share) for variant in self.variants)
            raise self._wrong("shares", f"add up to {total:.2%}, more than 100%")
        owned = {one.name: _buckets_of(one.ranges) for one in self.variants}
        # The lowest stay, the lowest free ones come: what is given up comes back first when the share is raised again.
        kept = {name: buckets[: wanted[name]] for name, buckets in owned.items()}
        free = _outside(owned.values())
        given_up = [at for name, buckets in owned.items() for at in buckets[len(kept[name]) :]]
        spare = iter([*free, *sorted(given_up)])
        variants = []
        for one in self.variants:
            gained = islice(spare, wanted[one.name] - len(kept[one.name]))
            variants.append(replace(one, ranges=_ranges_of([*kept[one.name], *gained])))
        return replace(self, variants=tuple(variants))

    def stop(self) -> Experiment:
        """The same experiment, assigning nobody. Its part of the layer becomes free."""
        return replace(self, status="stopped")

    def to_json(self) -> str:
        """The body of its control record."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """The reverse of `to_json`. Raises `ExperimentError` naming the key, such as `variants[1].ranges[0]`."""
        try:
            body = json.loads(text)
        except ValueError as error:
            raise ExperimentError(f"experiment: no JSON: {error}") from None
        name = body.get("name") if isinstance(body, dict) else None
        return _Reader(f"experiment {name!r}" if isinstance(name, str) else "experiment").experiment(body)

    def _wrong(self, key: str, what: str) -> ExperimentError:
        return ExperimentError(f"experiment {self.name!r}: {key} {what}")

    def _buckets(self, name: str, share: float) -> int:
        if not (0 <= share <= 1):
            raise self._wrong(f"shares.{name}", f"must be between 0 and 1, got {share}")
        # 0.29 * 10000 is 2899.9999999999995.
        return int(share * BUCKETS + 1e-6)

    def _check_ranges(self, key: str, ranges: tuple[Range, ...]) -> None:
        for index, (lo, hi) in enumerate(ranges):
            if not (0 <= lo < hi <= BUCKETS):
                raise self._wrong(f"{key}[{index}]", f"must be [lo, hi) within 0 to {BUCKETS}, got [{lo}, {hi}]")
        clash = _overlap([(key, ranges)])
        if clash:
            raise self._wrong(key, f"holds bucket {clash[2]} twice")


class Router:
    """Assigns users to variants by the running experiments. Immutable: a changed control topic makes a new one.

    Raises `ExperimentError` where two experiments have one name, or running ones overlap in a layer.
    """

    def __init__(self, experiments: Iterable[Experiment] = ()) -> None:
        by_name: dict[str, Experiment] = {}
        layers: dict[str, list[tuple[str, tuple[Range, ...]]]] = {}
        for one in experiments:
            if one.name in by_name:
                raise ExperimentError(f"experiment {one.name!r}: name is there twice")
            by_name[one.name] = one
            if one.layer and one.status == "running":
                layers.setdefault(one.layer, []).append((one.name, one.layer_ranges))
        for layer, owners in layers.items():
            clash = _overlap(owners)
            if clash:
                raise ExperimentError(
                    f"experiment {clash[1]!r}: layer_ranges overlap with those of {clash[0]!r} in layer {layer!r} "
                    f"at bucket {clash[2]}"
                )
        self.experiments: Mapping[str, Experiment] = MappingProxyType(by_name)
        self._tables = {one.name: _table(one) for one in by_name.values() if one.status == "running"}
        self._layers = {
            one.name: (_LAYER + one.layer, _mask(one.layer_ranges)) for one in by_name.values() if one.layer
        }

    def assign(self, experiment: str, user_id: str) -> Variant | None:
        """The user's variant; None outside the experiment, or where it is unknown or stopped."""
        table = self._tables.get(experiment)
        if table is None:
            return None
        layer = self._layers.get(experiment)
        if layer is not None and not layer[1][bucket(layer[0], user_id)]:
            return None
        return table[bucket(self.experiments[experiment].salt, user_id)]

    def assign_many(self, experiment: str, user_ids: Sequence[str]) -> list[Variant | None]:
        """`assign` for each user, in order."""
        table = self._tables.get(experiment)
        if table is None:
            return [None] * len(user_ids)
        found = [table[at] for at in bucket_many(self.experiments[experiment].salt, user_ids)]
        layer = self._layers.get(experiment)
        if layer is None:
            return found
        inside = bucket_many(layer[0], user_ids)
        return [one if layer[1][at] else None for one, at in zip(found, inside, strict=True)]


class _Reader:
    """Reads a definition's JSON, saying which key is wrong."""

    def __init__(self, what: str) -> None:
        self.what = what

    def experiment(self, body: Any) -> Experiment:
        self.keys("", body, {"name", "model", "salt", "variants"}, {"layer", "layer_ranges", "status"})
        variants = body["variants"]
        if not isinstance(variants, list):
            raise self.wrong("variants", "a list", variants)
        status = self.text("status", body.get("status", "running"))
        if status not in ("running", "stopped"):
            raise self.wrong("status", "running or stopped", status)
        return Experiment(
            name=self.text("name", body["name"]),
            model=self.text("model", body["model"]),
            salt=self.text("salt", body["salt"]),
            variants=tuple(self.variant(f"variants[{index}]", one) for index, one in enumerate(variants)),
            layer=self.text("layer", body.get("layer", "")),
            layer_ranges=self.ranges("layer_ranges", body.get("layer_ranges", [list(EVERYONE[0])])),
            status=cast(Status, status),
        )

    def variant(self, key: str, body: Any) -> Variant:
        self.keys(key, body, {"name", "version"}, {"ranges"})
        return Variant(
            name=self.text(f"{key}.name", body["name"]),
            version=self.text(f"{key}.version", body["version"]),
            ranges=self.ranges(f"{key}.ranges", body.get("ranges", [])),
        )

    def keys(self, key: str, body: Any, needed: set[str], other: set[str]) -> None:
        if not isinstance(body, dict):
            raise self.wrong(key or "definition", "an object", body)
        dot = f"{key}." if key else ""
        for missing in sorted(needed - set(body)):
            raise ExperimentError(f"{self.what}: {dot}{missing} is missing")
        # A key this release does not know could change who is assigned: refuse rather than assign differently.
        for extra in sorted(set(body) - needed - other):
            raise ExperimentError(
                f"{self.what}: {dot}{extra} is no known key; there are {', '.join(sorted(needed | other))}"
            )

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.wrong(key, "a string", value)
        return value

    def ranges(self, key: str, value: Any) -> tuple[Range, ...]:
        if not isinstance(value, list):
            raise self.wrong(key, "a list of [lo, hi]", value)
        for index, one in enumerate(value):
            if not (isinstance(one, list) and len(one) == 2 and all(type(end) is int for end in one)):
                raise self.wrong(f"{key}[{index}]", "[lo, hi] in whole numbers", one)
        return tuple((lo, hi) for lo, hi in value)

    def wrong(self, key: str, expected: str, got: Any) -> ExperimentError:
        return ExperimentError(f"{self.what}: {key} must be {expected}, got {json.dumps(got)[:80]}")


def _size(ranges: Iterable[Range]) -> int:
    return sum(hi - lo for lo, hi in ranges)


def _buckets_of(ranges: Iterable[Range]) -> list[int]:
    return [at for lo, hi in sorted(ranges) for at in range(lo, hi)]


def _ranges_of(buckets: Iterable[int]) -> tuple[Range, ...]:
    ranges: list[Range] = []
    for at in sorted(buckets):
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], at + 1)
        else:
            ranges.append((at, at + 1))
    return tuple(ranges)


def _outside(owned: Iterable[Iterable[int]]) -> list[int]:
    taken = {at for buckets in owned for at in buckets}
    return [at for at in range(BUCKETS) if at not in taken]


def _overlap(owners: Iterable[tuple[str, Iterable[Range]]]) -> tuple[str, str, int] | None:
    """Two owners of one bucket, and the bucket."""
    spans = sorted((lo, hi, name) for name, ranges in owners for lo, hi in ranges)
    for (_, end, before), (start, _, after) in pairwise(spans):
        if start < end:
            return before, after, start
    return None


def _mask(ranges: Iterable[Range]) -> bytearray:
    mask = bytearray(BUCKETS)
    for at in _buckets_of(ranges):
        mask[at] = 1
    return mask


def _table(experiment: Experiment) -> list[Variant | None]:
    table: list[Variant | None] = [None] * BUCKETS
    for variant in experiment.variants:
        for at in _buckets_of(variant.ranges):
            table[at] = variant
    return table
