"""Keeps the reference pages true: writes what schemas, topics and settings say into the Markdown under docs/.

`python -m penstock.docs` rewrites the parts between `<!-- generated: NAME -->` and `<!-- end -->`; a test holds the
committed pages to it.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from analytics.alert_catalogue import CATALOGUE
from analytics.alert_rules import shipped_rules
from analytics.definition_keys import TABLES, Key
from penstock.settings import KafkaSettings, PoolSettings, Settings
from schemas.codec import Codec, schema_json
from schemas.records import RECORDS
from schemas.topics import DAY_MS, Topics, TopicSpec, topic_specs

PAGES: Final = ("records-and-topics.md", "operations.md", "experiments.md", "alerts.md", "planning.md", "pools.md")
Schema = dict[str, Any]


class _Use(NamedTuple):
    record: str
    key: str
    written_by: str
    read_by: str


_USER: Final = "`user_id\\|experiment`"
USES: Final[Mapping[str, _Use]] = {
    "requests": _Use("ScoreRequest", _USER, "clients", "scoring workers"),
    "bulk": _Use("ScoreBatch", "none; partitions in turn", "`penstock score`", "scoring workers"),
    "bulk_results": _Use("ScoreReply", "job", "scoring workers, in transactions", "`penstock score`"),
    "replies": _Use("ScoreReply", "the request's", "scoring workers", "clients"),
    "predictions": _Use("PredictionBatch", "the worker's name", "scoring workers, in transactions", "ingest"),
    "summaries": _Use("BatchSummary", "model", "scoring workers, in transactions", "ingest, monitor"),
    "outcomes": _Use("Outcome", _USER, "applications", "ingest"),
    "dead_letters": _Use("DeadLetter", "the record's", "scoring workers, ingest", "ingest, people"),
    "control": _Use(
        "Control",
        "`kind/name`",
        "`penstock control`, `penstock models`, `penstock experiments`, `penstock pools`, monitor",
        "scoring workers, ingest, monitor",
    ),
    "alerts": _Use("Alert", "alert_id", "monitor, scoring workers", "ingest, monitor, scoring workers"),
    "shadow_predictions": _Use("PredictionBatch", "the worker's name", "scoring workers", "ingest"),
    "shadow_summaries": _Use("BatchSummary", "model", "scoring workers", "ingest, monitor"),
    "workers": _Use("Control", "`worker/NAME`", "scoring workers", "monitor, `penstock models show`"),
}


def topics_table(partitions: int) -> str:
    """A Markdown table of every topic with the settings it is created with."""
    topics = Topics()
    specs = {spec.name: spec for spec in topic_specs(topics, partitions)}
    rows = ["| topic | value | key | partitions | kept | written by | read by |", "|---|---|---|---|---|---|---|"]
    for attribute, use in USES.items():
        spec = specs[getattr(topics, attribute)]
        rows.append(
            f"| `{spec.name}` | [{use.record}](#{use.record.lower()}) | {use.key} | {spec.partitions} | {_kept(spec)} "
            f"| {use.written_by} | {use.read_by} |"
        )
    return "\n".join(rows)


def _kept(spec: TopicSpec) -> str:
    policy = spec.config.get("cleanup.policy", "delete")
    if policy == "compact":
        return "compacted"
    days = int(spec.config["retention.ms"]) / DAY_MS
    for_long = f"{days:g} d" if days >= 1 else f"{days * 24:g} h"
    return f"compacted, {for_long}" if "compact" in policy else for_long


def records() -> str:
    """Markdown of every record, field by field, then of the types they share."""
    codec = Codec()
    shared: dict[str, Schema] = {}
    parts: list[str] = []
    for record in RECORDS:
        schema: Schema = json.loads(schema_json(record.__name__))
        _collect(schema, shared)
        header = codec.header(record).hex(" ")
        parts.append(f"### {schema['name']}\n\n{schema['doc']} Frame: `{header}`.\n\n{_fields(schema)}")
    parts.append("### Shared types")
    for name, schema in sorted(shared.items()):
        body = _fields(schema) if schema["type"] == "record" else _symbols(schema)
        parts.append(f"#### {name}\n\n{schema['doc']}\n\n{body}")
    return "\n\n".join(parts)


def _collect(schema: Schema, shared: dict[str, Schema]) -> None:
    """Put the named types inside a record into `shared`, by name."""
    for field in schema["fields"]:
        for inner in _named(field["type"]):
            shared.setdefault(inner["name"], inner)
            if inner["type"] == "record":
                _collect(inner, shared)


def _named(kind: Any) -> Iterator[Schema]:
    if isinstance(kind, list):
        for one in kind:
            yield from _named(one)
    elif isinstance(kind, dict):
        if kind["type"] in ("record", "enum"):
            yield kind
        else:
            for key in ("items", "values"):
                yield from _named(kind.get(key))


def _fields(schema: Schema) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in schema["fields"]:
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        rows.append(f"| `{field['name']}` | {_type(field['type'])} | {default} | {_cell(field['doc'])} |")
    return "\n".join(rows)


def _symbols(schema: Schema) -> str:
    return "In wire order: " + ", ".join(f"`{index}` {symbol}" for index, symbol in enumerate(schema["symbols"])) + "."


def _type(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_type(one) for one in kind)
    if isinstance(kind, str):
        return kind if kind.islower() else f"[{kind}](#{kind.lower()})"
    if "logicalType" in kind:
        return f"{kind['type']}, {kind['logicalType']}"
    if kind["type"] == "array":
        return f"array of {_type(kind['items'])}"
    if kind["type"] == "map":
        return f"map of {_type(kind['values'])}"
    return f"[{kind['name']}](#{kind['name'].lower()})"


def settings_table(model: type[BaseModel] = Settings, prefix: str = "") -> str:
    """A Markdown table of every setting: key, type, default and meaning."""
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *_settings(model, prefix)])


def _settings(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{prefix}{name}.")
            continue
        default = "needed" if field.is_required() else _default(field.get_default(call_default_factory=True))
        yield f"| `{prefix}{name}` | {_cell(_python(kind))} | {default} | {_cell(field.description or '')} |"


def _python(kind: Any) -> str:
    """A type as a person would write it in a table; that a value may be missing shows in its default."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _python(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_python(one) for one in typing.get_args(kind) if one is not type(None))
    if origin is typing.Literal:
        return " or ".join(json.dumps(one) for one in typing.get_args(kind))
    name = (origin or kind).__name__
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "dict": "table"}
    return {**words, "tuple": "list"}[name]


def experiment_keys() -> str:
    """Markdown tables of every key of an experiment's TOML, a table each."""
    heads = {
        "": "The file itself",
        "variants": "`[[variants]]`",
        "metrics": "`[[metrics]]`",
        "source": "`source`, `numerator` and `denominator` of a metric",
        "guardrails": "`[[guardrails]]`",
        "test": "`[test]`",
    }
    parts = []
    for table, found in TABLES.items():
        rows = ["| key | holds | left out | meaning |", "|---|---|---|---|"]
        rows += [f"| `{one.name}` | {_cell(one.expected)} | {_left_out(one)} | {_cell(one.meaning)} |" for one in found]
        parts.append(f"{heads[table]}:\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def alert_metrics() -> str:
    """A Markdown table of the metrics that an alert rule may name."""
    rows = ["| metric | meaning | labels | in summaries besides |", "|---|---|---|---|"]
    for one in CATALOGUE.values():
        labels, figures = (", ".join(f"`{name}`" for name in names) for names in (one.labels, one.figures))
        rows.append(f"| `{one.name}` | {_cell(one.meaning)} | {labels} | {figures} |")
    return "\n".join(rows)


def shipped_alerts() -> str:
    """A Markdown table of the rules that come with Penstock."""
    rows = ["| rule | metric | of | when | for | severity |", "|---|---|---|---|---|---|"]
    for one in shipped_rules():
        hold = f"{one.hold.total_seconds() / 60:g} min" if one.hold else ""
        enough = f", n ≥ {one.min_n}" if one.min_n else ""
        when = _cell(str(one.condition)) + enough
        only = ", ".join(
            f"{label} {' or '.join(values)}" if any(values) else f"no {label}" for label, values in one.where.items()
        )
        rows.append(f"| `{one.name}` | `{one.metric}` | {only} | {when} | {hold} | {one.severity} |")
    return "\n".join(rows)


def _left_out(key: Key) -> str:
    if key.needed:
        return "an error"
    return key.usual or ("" if key.default is None else f"`{json.dumps(key.default)}`")


def experiment_plan() -> str:
    """What `penstock experiments plan` prints for the page's example."""
    return _printed(
        "experiments plan --baseline 0.05 --mde 10% --test group-sequential --rate 1000 --share 10% --curve"
    )


def _printed(arguments: str) -> str:
    """A command as one types it, and what it prints."""
    from typer.testing import CliRunner

    from penstock.cli import build

    result = CliRunner().invoke(build(), arguments.split())
    return f"```sh\npenstock {arguments}\n```\n\n```text\n{_trimmed(result.stdout)}\n```"


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def plan_checked() -> str:
    """A Markdown table of what was simulated and what was measured, out of the newest document."""
    newest = max((folder().parent / "benchmarks" / "results").glob("*-planning.json"))
    document = json.loads(newest.read_text("utf-8"))
    rows = ["| requests/s | workers | figure | simulated | measured | off by |", "|---|---|---|---|---|---|"]
    for load in document["loads"]:
        for one in load["compared"]:
            measured = "{median:g} ({min:g} to {max:g})".format(**one["measured"])
            rows.append(
                f"| {load['requests_per_second']:,.0f} | {load['workers']} | {one['figure']} | {one['simulated']:g} "
                f"| {measured} | {one['off']:+.1%} |"
            )
    machine = document["machine"]
    about = (
        f"{document['broker']}, {machine['cores']} cores, {machine['date'][:10]}, load average before it "
        f"{machine['load_average'][0]:g}; median (smallest to largest) of the rounds:"
    )
    return about + "\n\n" + "\n".join(rows)


FIGURES: Final[Mapping[str, str]] = {
    "A/A, 14 looks, naive z at each": "a plain test, looked at 14 times: finds a difference where there is none",
    "A/A, 14 looks, group sequential, obrien-fleming, two-sided": "group sequential, O'Brien-Fleming: the same",
    "A/A, 14 looks, group sequential, pocock, two-sided": "group sequential, Pocock: the same",
    "A/A, 14 looks, asymptotic confidence sequence, two-sided": "always valid: the same",
    "A/B of +10%, 32,559 an arm, group sequential, obrien-fleming": (
        "group sequential at its planned size: finds the planned effect"
    ),
    "A/A ratio metric, z test over views": "a ratio metric, every view taken for a unit: finds what is not there",
    "A/A ratio metric, delta method over users": "a ratio metric by users: the same",
    "SRM, 28 looks, chi-square at 1% at each look": "a plain chi-square for the split at 28 looks: a false alarm",
    "SRM, 28 looks, e-process at 1%, 50%/50%": "the sample-ratio check at 28 looks: the same",
    "SRM found: 4% of the treatment lost, 28 looks, e-process at 1%": "the sample-ratio check, 4% of an arm lost: seen",
    "coverage at all 14 looks, repeated interval, obrien-fleming": "the interval holds the truth at all 14 looks",
    "coverage at all 14 looks, confidence sequence": "the same, always valid",
}


def experiment_figures() -> str:
    """A Markdown table of what the simulations found, ± two standard errors, out of their newest document."""
    newest = max((folder().parent / "benchmarks" / "results").glob("*-experiments.json"))
    found = {one["name"]: one for one in json.loads(newest.read_text("utf-8"))["figures"]}
    rows = ["| in simulated experiments | share | wanted | experiments |", "|---|---|---|---|"]
    for name, words in FIGURES.items():
        one = found[name]
        share = f"{one['share']:.1%} ± {2 * one['simulation_error']:.1%}"
        rows.append(f"| {words} | {share} | {one['bound']} {one['limit']:.1%} | {one['runs']:,} |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, str):
        # Where this checkout stands is nobody's default.
        value = value.removeprefix(f"{folder().parent}/")
    return f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "topics": lambda: topics_table(KafkaSettings().partitions),
    "records": records,
    "settings": settings_table,
    "pool-settings": lambda: settings_table(PoolSettings, "pools.NAME."),
    "experiment-keys": experiment_keys,
    "experiment-plan": experiment_plan,
    "experiment-figures": experiment_figures,
    "alert-metrics": alert_metrics,
    "alert-rules": shipped_alerts,
    "plan-capacity": lambda: _printed("plan capacity --rate 1000 --service 1:50ms,32:60ms --cost 2.5"),
    "plan-failure": lambda: _printed("plan capacity --rate 1000 --service 1:50ms,32:60ms --p99 130ms --fail"),
    "plan-sweep": lambda: _printed(
        "plan capacity --service 1:50ms,32:60ms --p99 130ms --sweep 1e3,1e4,1e5,1e6 --cost 2.5"
    ),
    "plan-checked": plan_checked,
    "plan-transformer": lambda: _printed("plan memory llama-2-70b --sequences 16 --length 4096"),
}
_BLOCK: Final = re.compile(r"<!-- generated: (\S+) -->\n.*?<!-- end -->", re.DOTALL)


def render(page: str) -> str:
    """A page's text with every generated part made anew. Raises LookupError on a part that nobody generates."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name not in PARTS:
            raise LookupError(f"no part {name!r} is generated; there are {', '.join(PARTS)}")
        return f"<!-- generated: {name} -->\n{PARTS[name]()}\n<!-- end -->"

    return _BLOCK.sub(part, page)


def folder() -> Path:
    """The checkout's docs/."""
    return Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    """Rewrite the pages that changed."""
    for name in PAGES:
        path = folder() / name
        old = path.read_text("utf-8")
        new = render(old)
        if new != old:
            path.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
