"""A reading as JSON and back, so that one process finds it and another draws it.

The plan is written as the control topic has it, a metric by its name. Dates and times are ISO 8601, durations seconds;
an infinite number, which JSON has none for, is the text "inf" or "-inf".
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from functools import cache
from numbers import Integral
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from analytics.definition_reader import plan_from_json
from analytics.definitions import Definition, DefinitionError, Metric
from analytics.readings import Reading
from analytics.results import StatisticError

FORMAT: Final = 1
_NAMES: Final[dict[type, str]] = {str: "a text", int: "a whole number", bool: "true or false"}


class ReadingError(ValueError):
    """A document that is no reading, in one line that names the place."""


def reading_to_document(reading: Reading) -> dict[str, Any]:
    """The reading as JSON values. Beside its own fields it has `trusted` and the `format`'s number.

    Raises `ReadingError` for an arm on a metric that the plan does not have.
    """
    named = {one.name: one for one in reading.plan.definition.metrics}
    for one in reading.arms:
        if named.get(one.metric.name) != one.metric:
            raise ReadingError(f"arms: {one.metric.name!r} is not a metric of the plan")
    document: dict[str, Any] = {"format": FORMAT, "trusted": reading.trusted}
    for field in fields(reading):
        value = getattr(reading, field.name)
        document[field.name] = json.loads(value.to_json()) if field.name == "plan" else _plain(value)
    return document


def reading_to_json(reading: Reading) -> str:
    """The same as text. Raises `ReadingError`."""
    return json.dumps(reading_to_document(reading), ensure_ascii=False, allow_nan=False)


def reading_from_document(document: Any) -> Reading:
    """The reverse of `reading_to_document`. Raises `ReadingError`."""
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, Mapping) else document
        raise ReadingError(f"format: expected a reading of format {FORMAT}, got {_shown(found)}")
    try:
        plan = plan_from_json(json.dumps(document.get("plan")), "plan")
    except DefinitionError as error:
        raise ReadingError(str(error)) from None
    values: dict[str, Any] = {"plan": plan}
    for name, kind in _hints(Reading).items():
        if name != "plan":
            values[name] = _typed(document.get(name), kind, name, plan.definition)
    return Reading(**values)


def reading_from_json(text: str) -> Reading:
    """The reverse of `reading_to_json`. Raises `ReadingError`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ReadingError(f"no JSON: {error}") from None
    return reading_from_document(document)


def _plain(value: Any) -> Any:
    if isinstance(value, Metric):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        # Also what numpy calls a float: JSON takes Python's own only.
        return float(value) if math.isfinite(value) else str(float(value))
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(value: Any, kind: Any, place: str, definition: Definition) -> Any:
    """The value as the annotation `kind` says; `place` names it in an error."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inside:
            return None
        (kind,) = [one for one in inside if one is not type(None)]
        return _typed(value, kind, place, definition)
    if origin is Literal:
        return value if value in inside else _wrong(place, f"one of {', '.join(inside)}", value)
    if origin is tuple:
        if not isinstance(value, list):
            _wrong(place, "a list", value)
        kinds = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        if len(kinds) != len(value):
            _wrong(place, f"{len(kinds)} of them", value)
        return tuple(
            _typed(one, part, f"{place}[{at}]", definition)
            for at, (one, part) in enumerate(zip(value, kinds, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            _wrong(place, "an object", value)
        return {key: _typed(one, inside[1], f"{place}.{key}", definition) for key, one in value.items()}
    if kind is Metric:
        try:
            return definition.metric(value)
        except DefinitionError as error:
            raise ReadingError(f"{place}: {error}") from None
    if is_dataclass(kind):
        return _record(value, kind, place, definition)  # type: ignore[arg-type] # a class
    return _scalar(value, kind, place)


def _record(value: Any, kind: type, place: str, definition: Definition) -> Any:
    if not isinstance(value, Mapping):
        _wrong(place, "an object", value)
    hints = _hints(kind)
    made = {name: _typed(value.get(name), hints[name], f"{place}.{name}", definition) for name in hints}
    try:
        return kind(**made)
    except StatisticError as error:
        raise ReadingError(f"{place}: {error}") from None


def _scalar(value: Any, kind: type, place: str) -> Any:
    if kind is float:
        if value in ("inf", "-inf"):
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return _wrong(place, "a number", value)
    if kind is datetime:
        return _moment(value, place)
    if kind is date:
        try:
            return date.fromisoformat(value)
        except (TypeError, ValueError):
            _wrong(place, "a day such as '2026-11-02'", value)
    return value if type(value) is kind else _wrong(place, _NAMES.get(kind, kind.__name__), value)


def _moment(value: Any, place: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        _wrong(place, "a time with its zone such as '2026-11-02T08:00:00+00:00'", value)
    return found.astimezone(UTC)


def _wrong(place: str, expected: str, value: Any) -> NoReturn:
    raise ReadingError(f"{place}: expected {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return repr(value)[:80]
