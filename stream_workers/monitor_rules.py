"""What each series is held against: limits from the settings, references from manifests, controls from plans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final

from analytics.definition_reader import plan_from_json
from analytics.definitions import PLAN_KIND, DefinitionError
from models.errors import ModelError
from models.manifest import Manifest
from models.store import Store
from schemas.codec import Codec, DecodeError
from schemas.records import Control
from stream_workers.control import SEPARATOR, ControlState
from stream_workers.guardrails import Limits
from stream_workers.monitor_shift import Reference, from_profile
from stream_workers.monitor_windows import Series

log = logging.getLogger(__name__)
# A version that the store does not know yet is asked for again after this.
ASK_AGAIN: Final = 30.0
# After a second most people have gone.
USUAL_P99_MS: Final = 1000.0


class Plans(ControlState):
    """The control topic as workers read it, and the control variant of each experiment that has a plan."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._reader = codec
        self.controls: dict[str, str] = {}

    def apply(self, key: bytes, value: bytes | None) -> str:
        """See `ControlState.apply`. A plan that cannot be read is left out: its experiment has no known control."""
        kind, _, name = key.decode("utf-8", "replace").partition(SEPARATOR)
        if kind != PLAN_KIND:
            return super().apply(key, value)
        others = {own: control for own, control in self.controls.items() if own != name}
        if value is None:
            self.controls = others
            return kind
        try:
            plan = plan_from_json(self._reader.decode(Control, value).body, f"{PLAN_KIND}/{name}")
        except (DecodeError, DefinitionError) as error:
            log.warning("the plan of experiment %s cannot be read, so that nobody knows its control: %s", name, error)
            self.controls = others
        else:
            self.controls = {**others, name: plan.definition.control}
        return kind


@dataclass(frozen=True, slots=True)
class LimitTable:
    """Limits of all series, of some models and of some experiments; the more special one wins, key by key.

    Here 0 is no limit, and None of p99 is what the version's manifest names, or `USUAL_P99_MS`. `models` and
    `experiments`: name to the fields of `Limits` that differ there.
    """

    usual: Limits
    models: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    experiments: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def of(self, series: Series) -> Limits:
        """The limits of a series."""
        own = {**self.models.get(series.model, {}), **self.experiments.get(series.experiment, {})}
        return replace(self.usual, **own) if own else self.usual  # type: ignore[arg-type]


class LiveRules:
    """The `Rules` of a running monitor."""

    def __init__(
        self, limits: LimitTable, store: Store, plans: Plans, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._limits = limits
        self._store = store
        self._plans = plans
        self._clock = clock
        self._references: dict[tuple[str, str], Reference | None] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self._targets: dict[tuple[str, str], float | None] = {}
        self._known: dict[Series, Limits] = {}

    def limits(self, series: Series) -> Limits:
        """The settings' limits, as they are for this series."""
        known = self._known.get(series)
        if known is not None:
            return known
        limits = self._limits.of(series)
        p99 = limits.p99_ms
        if p99 is None:
            self.reference(series)
            target = self._targets.get((series.model, series.version))
            p99 = USUAL_P99_MS if target is None else target * 1000
        found = replace(
            limits,
            p99_ms=p99 or None,
            error_rate=limits.error_rate or None,
            score_psi=limits.score_psi or None,
            feature_psi=limits.feature_psi or None,
        )
        if limits.p99_ms is not None or (series.model, series.version) in self._targets:
            self._known[series] = found
        return found

    def reference(self, series: Series) -> Reference | None:
        """The version's profile. A version or profile that cannot be read has none, and the log says why once."""
        key = (series.model, series.version)
        if key in self._references or not series.version:
            return self._references.get(key)
        now = self._clock()
        if now - self._asked.get(key, -ASK_AGAIN) < ASK_AGAIN:
            return None
        first = key not in self._asked
        self._asked[key] = now
        try:
            manifest = self._store.manifest(*key)
        except (ModelError, OSError) as error:
            if first:
                log.warning("scores of %s are compared with nothing: %s", series, error)
            return None
        self._targets[key] = manifest.batching.p99_target
        self._references[key] = self._profile(manifest)
        return self._references[key]

    def control(self, experiment: str) -> str:
        """The control variant by the experiment's plan."""
        return self._plans.controls.get(experiment, "")

    def _profile(self, manifest: Manifest) -> Reference | None:
        what = f"the profile of {manifest.name} {manifest.version}"
        try:
            return from_profile(what, manifest.profile, manifest.signature)
        except ValueError as error:
            log.warning("scores of %s %s are compared with nothing: %s", manifest.name, manifest.version, error)
            return None
