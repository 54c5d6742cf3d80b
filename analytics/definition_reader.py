"""Reads experiment definitions, from a TOML file or the control topic, and says which key is wrong.

experiment.toml: metrics[1].window: expected a duration such as '48h', got 'x'
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from analytics import definition_values as values
from analytics.definitions import (
    BUCKETS,
    OUTCOME_VALUES,
    PREDICTION_COLUMNS,
    Aggregate,
    Arm,
    Definition,
    DefinitionError,
    Direction,
    Guardrail,
    Metric,
    MetricKind,
    Plan,
    Procedure,
    Source,
    Spending,
    TestKind,
)

_T = TypeVar("_T")


def from_toml(path: str | Path) -> Definition:
    """The definition in a TOML file. Raises `DefinitionError` naming file and key."""
    path = Path(path)
    try:
        body = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DefinitionError(f"{path.name} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{path.name}: no TOML: {error}") from None
    return read(body, path.name)


def from_json(text: str, what: str = "definition") -> Definition:
    """The reverse of `Definition.to_json`. Raises `DefinitionError`; `what` begins its line."""
    return read(_json(text, what), what)


def plan_from_json(text: str, what: str = "experiment-plan") -> Plan:
    """The reverse of `Plan.to_json`. Raises `DefinitionError`; `what` begins its line."""
    top = _Table(what, "", _json(text, what), ("definition",), ("started_at", "stopped_at"))
    started, stopped = (top.optional(key, values.moment) for key in ("started_at", "stopped_at"))
    if stopped is not None and (started is None or stopped < started):
        raise top.wrong("stopped_at", "a time at or after started_at", top.body["stopped_at"])
    return Plan(read(top.body["definition"], what), started, stopped)


def read(body: Any, what: str) -> Definition:
    """A definition from a document as TOML or JSON has it. Raises `DefinitionError`; `what` begins its line."""
    needed = ("name", "hypothesis", "model", "control", "variants", "metrics")
    other = ("guardrails", "test", "unit", "salt", "layer", "layer_ranges", "minimum_runtime", "maturity_delay", "slot")
    top = _Table(what, "", body, needed, other)
    variants = tuple(_arm(one) for one in top.tables("variants", ("name", "version", "share"), ()))
    metrics = tuple(_metric(one) for one in top.tables("metrics", ("name", "kind"), _METRIC))
    guardrails = tuple(
        Guardrail(one.get("metric", values.text), one.get("margin", values.effect))
        for one in top.tables("guardrails", ("metric", "margin"), ())
    )
    definition = Definition(
        name=top.get("name", values.name),
        hypothesis=top.get("hypothesis", values.text),
        model=top.get("model", values.text),
        variants=variants,
        control=top.get("control", values.text),
        metrics=metrics,
        guardrails=guardrails,
        test=_procedure(top.table("test", (), ("kind", "alpha", "power", "spending", "spending_parameter", "looks"))),
        unit=top.get("unit", values.one_of(("user",)), "user"),
        salt=top.get("salt", values.any_text, ""),
        layer=top.get("layer", values.any_text, ""),
        layer_ranges=top.get("layer_ranges", values.ranges, ((0, BUCKETS),)),
        minimum_runtime=top.get("minimum_runtime", values.duration, timedelta(hours=24)),
        maturity_delay=top.get("maturity_delay", values.duration, timedelta(hours=1)),
        slot=top.get("slot", values.whole_seconds, timedelta(hours=1)),
    )
    _check(top, definition)
    return definition


def check_layers(running: Iterable[Definition]) -> None:
    """Raise `DefinitionError` where two experiments of one layer own a bucket both."""
    owned: dict[str, list[tuple[int, int, str]]] = {}
    for one in running:
        if one.layer:
            owned.setdefault(one.layer, []).extend((lo, hi, one.name) for lo, hi in one.layer_ranges)
    for layer, spans in owned.items():
        for (_, end, before), (start, _, after) in pairwise(sorted(spans)):
            if start < end:
                raise DefinitionError(
                    f"experiment {after!r}: layer_ranges overlap with those of {before!r} in layer {layer!r} "
                    f"at bucket {start}"
                )


class _Table:
    """One table of the document; `key` is its place. Every error names file, place and key."""

    def __init__(self, what: str, key: str, body: Any, needed: Sequence[str], other: Sequence[str]) -> None:
        self.what = what
        self.key = key
        if not isinstance(body, Mapping):
            raise DefinitionError(f"{what}: {key or 'definition'}: expected a table, got {values.shown(body)}")
        self.body = body
        for name in needed:
            if name not in body:
                raise DefinitionError(f"{what}: {self.at(name)} is missing")
        for name in body:
            if name not in needed and name not in other:
                raise DefinitionError(f"{what}: {self.at(name)}: no such key; there are {', '.join((*needed, *other))}")

    def at(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name

    def wrong(self, name: str, expected: str, got: Any) -> DefinitionError:
        return DefinitionError(f"{self.what}: {self.at(name)}: expected {expected}, got {values.shown(got)}")

    def get(self, name: str, read: Callable[[Any], _T], default: _T | None = None) -> _T:
        """A value; `default` where the key is left out, which is an error without one."""
        if name not in self.body:
            if default is None:
                raise DefinitionError(f"{self.what}: {self.at(name)} is missing")
            return default
        try:
            return read(self.body[name])
        except values.Expected as expected:
            raise self.wrong(name + expected.inside, str(expected), expected.got(self.body[name])) from None

    def optional(self, name: str, read: Callable[[Any], _T]) -> _T | None:
        """A value; None where the key is left out or null."""
        return None if self.body.get(name) is None else self.get(name, read)

    def table(self, name: str, needed: Sequence[str], other: Sequence[str]) -> _Table:
        return _Table(self.what, self.at(name), self.body.get(name, {}), needed, other)

    def tables(self, name: str, needed: Sequence[str], other: Sequence[str]) -> list[_Table]:
        found = self.body.get(name, [])
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise self.wrong(name, f"a list of tables, [[{name}]]", found)
        return [_Table(self.what, f"{self.at(name)}[{at}]", one, needed, other) for at, one in enumerate(found)]


_METRIC: Final = (
    *("outcome", "prediction", "source", "numerator", "denominator", "window", "direction", "mde", "cap_value"),
    *("cap_percentile", "percentile", "covariate_window", "only_with_events"),
)
_SOURCE: Final = ("outcome", "prediction", "value", "threshold", "aggregate")


def _arm(table: _Table) -> Arm:
    return Arm(table.get("name", values.name), table.get("version", values.text), table.get("share", values.share))


def _metric(table: _Table) -> Metric:
    kind: MetricKind = table.get("kind", values.one_of(get_args(MetricKind)))
    named = [name for name in ("outcome", "prediction", "source", "numerator") if table.body.get(name) is not None]
    if len(named) != 1:
        raise DefinitionError(
            f"{table.what}: {table.key}: expected one of outcome, prediction, source or (of a ratio) numerator, "
            f"got {', '.join(named) or 'none'}"
        )
    # Most numbers add up over a unit; a quantile is of typical numbers, and a proportion asks whether there was one.
    usual: dict[str, Aggregate] = {"proportion": "any", "quantile": "mean"}
    if named[0] in ("outcome", "prediction"):
        source = _source(_Table(table.what, table.key, {named[0]: table.body[named[0]]}, (), _SOURCE), usual.get(kind))
    else:
        source = _source(_Table(table.what, table.at(named[0]), table.body[named[0]], (), _SOURCE), usual.get(kind))
    denominator = None
    if table.body.get("denominator") is not None:
        denominator = _source(_Table(table.what, table.at("denominator"), table.body["denominator"], (), _SOURCE), None)
    if (kind == "ratio") != (denominator is not None):
        raise DefinitionError(
            f"{table.what}: {table.at('denominator')}: "
            + ("is missing; a ratio needs one" if kind == "ratio" else f"a {kind} has none; only a ratio does")
        )
    metric = Metric(
        name=table.get("name", values.name),
        kind=kind,
        source=source,
        denominator=denominator,
        window=table.get("window", values.duration, timedelta(days=1)),
        direction=table.get("direction", values.one_of(get_args(Direction)), "increase"),
        mde=table.optional("mde", values.effect),
        cap_value=table.optional("cap_value", values.positive),
        cap_percentile=table.optional("cap_percentile", values.percentile),
        percentile=table.optional("percentile", values.percentile),
        covariate_window=table.optional("covariate_window", values.duration),
        only_with_events=table.get(
            "only_with_events", values.boolean, kind == "quantile" or source.aggregate == "mean"
        ),
    )
    if (kind == "quantile") != (metric.percentile is not None):
        raise table.wrong(
            "percentile", "a number above 0 and below 100 for a quantile, and only there", metric.percentile
        )
    if metric.cap_value is not None and metric.cap_percentile is not None:
        raise table.wrong("cap_percentile", "either it or cap_value", metric.cap_percentile)
    if kind in ("quantile", "proportion") and (metric.cap_value is not None or metric.cap_percentile is not None):
        raise DefinitionError(f"{table.what}: {table.key}: a {kind} is not winsorised; leave the cap out")
    if kind == "proportion" and source.aggregate != "any":
        raise table.wrong("aggregate", "'any' for a proportion", source.aggregate)
    return metric


def _source(table: _Table, usual: Aggregate | None) -> Source:
    outcome, prediction = table.get("outcome", values.any_text, ""), table.get("prediction", values.any_text, "")
    if bool(outcome) == bool(prediction):
        raise DefinitionError(f"{table.what}: {table.key}: expected either outcome or prediction")
    if prediction and prediction not in PREDICTION_COLUMNS:
        raise table.wrong("prediction", f"a column of predictions, one of {', '.join(PREDICTION_COLUMNS)}", prediction)
    value = table.get("value", values.one_of(OUTCOME_VALUES), "value")
    if prediction and value != "value":
        raise table.wrong("value", "none where the source is a prediction", value)
    aggregate: Aggregate = table.get("aggregate", values.one_of(get_args(Aggregate)), usual or "sum")
    return Source(outcome, prediction, value, table.get("threshold", values.number, 0.5), aggregate)


def _procedure(table: _Table) -> Procedure:
    usual = Procedure()
    found = Procedure(
        kind=table.get("kind", values.one_of(get_args(TestKind)), usual.kind),
        alpha=table.get("alpha", values.within, usual.alpha),
        power=table.get("power", values.within, usual.power),
        spending=table.get("spending", values.one_of(get_args(Spending)), usual.spending),
        spending_parameter=table.optional("spending_parameter", values.number),
        looks=table.get("looks", values.count, usual.looks),
    )
    needs = found.spending in ("power", "hwang-shih-decani")
    if found.kind == "group-sequential" and needs != (found.spending_parameter is not None):
        raise table.wrong(
            "spending_parameter",
            "a number for the families power and hwang-shih-decani, and only there",
            found.spending_parameter,
        )
    if found.spending == "power" and found.spending_parameter is not None and found.spending_parameter <= 0:
        raise table.wrong("spending_parameter", "a number above 0", found.spending_parameter)
    return found


def _check(top: _Table, definition: Definition) -> None:
    """What no key can say by itself."""
    named = {
        "variants": [one.name for one in definition.variants],
        "metrics": [one.name for one in definition.metrics],
        "guardrails": [one.metric for one in definition.guardrails],
    }
    for group, names in named.items():
        for at, name in enumerate(names):
            if names.index(name) != at:
                raise DefinitionError(f"{top.what}: {group}[{at}]: {name!r} is there twice")
    if len(definition.variants) < 2:
        raise top.wrong("variants", "two or more", f"{len(definition.variants)}")
    if not definition.metrics:
        raise top.wrong("metrics", "one or more", "none")
    total = math.fsum(definition.shares().values())
    if total > 1 + 1e-9:
        raise DefinitionError(f"{top.what}: variants: shares add up to {total:.2%}, more than 100%")
    if definition.control not in definition.shares():
        raise top.wrong("control", f"one of the variants {', '.join(definition.shares())}", definition.control)
    for at, one in enumerate(definition.guardrails):
        if one.metric not in [metric.name for metric in definition.metrics]:
            known = ", ".join(metric.name for metric in definition.metrics)
            raise top.wrong(f"guardrails[{at}].metric", f"one of the metrics {known}", one.metric)
    if not definition.layer and definition.layer_ranges != ((0, BUCKETS),):
        raise DefinitionError(f"{top.what}: layer_ranges: mean nothing without a layer; name the layer")
    for (_, end), (start, _) in pairwise(sorted(definition.layer_ranges)):
        if start < end:
            raise DefinitionError(f"{top.what}: layer_ranges: bucket {start} is there twice")


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DefinitionError(f"{what}: no JSON: {error}") from None
