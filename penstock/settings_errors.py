"""Says in one line what is wrong with a setting: where it was set, its key, its value, and what is expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

_SECRET: Final = re.compile(
    r"password|secret|token|credential|\.key|_key|jaas|basic\.auth|webhooks\.[^.]+\.(?:url|headers)", re.IGNORECASE
)
_IN_URL: Final = re.compile(r"(//[^:/@\s]*:)[^@/\s]+@")
HIDDEN: Final = "***"


class SettingsError(ValueError):
    """A setting that cannot be used, in one line that names its key."""


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is nobody's business."""
    return _SECRET.search(key) is not None


def hide(value: Any, key: str = "") -> Any:
    """The same value with secrets, known by their key or their place in a URL, replaced by `***`."""
    if isinstance(value, Mapping):
        return {name: hide(item, f"{key}.{name}") for name, item in value.items()}
    if is_secret(key) and value:
        return HIDDEN
    return _IN_URL.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value


def explain(error: ValidationError, file: str, environ: Mapping[str, str], model: type[BaseModel], prefix: str) -> str:
    """The first problem of `error`, and how many more there are."""
    first, *others = error.errors(include_url=False)
    path = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(path)
    where = place(path, file, environ, prefix)
    if first["type"] == "extra_forbidden":
        text = f"{where}: no such key{_nearest(path, model)}"
    elif first["type"] == "value_error":
        text = f"{where}: {first['msg'].removeprefix('Value error, ')}"
    else:
        text = f"{where} = {hide(first['input'], key)!r}: {first['msg'].replace('Input should be', 'expected')}"
    return " ".join(text.split()) + (f" (and {len(others)} more)" if others else "")


def place(path: list[str], file: str, environ: Mapping[str, str], prefix: str) -> str:
    """Where the key at `path` was set: the environment's variable, else the file and the key."""
    return _variable(path, environ, prefix) or f"{file}: {'.'.join(path)}"


def _variable(path: list[str], environ: Mapping[str, str], prefix: str) -> str | None:
    """The environment variable that set the key at `path` or a part of it; None where it was the file."""
    known = {name.upper(): name for name in environ}
    for depth in range(len(path), 0, -1):
        for parts in (path[:depth], [*path[: depth - 1], path[depth - 1].replace(".", "_")]):
            name = prefix + "__".join(parts).upper()
            if name in known:
                rest = ".".join(path[depth:])
                return known[name] + (f" ({rest})" if rest else "")
    # A table that the error names as a whole, of which the environment set a key.
    below = prefix + "__".join(path).upper() + "__"
    return next((name for upper, name in known.items() if upper.startswith(below)), None)


def _nearest(path: list[str], model: type[BaseModel]) -> str:
    for part in path[:-1]:
        field = model.model_fields.get(part)
        kind = field.annotation if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return ""
        model = kind
    names = list(model.model_fields)
    close = difflib.get_close_matches(path[-1], names, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
