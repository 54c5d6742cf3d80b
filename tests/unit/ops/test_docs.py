"""The reference pages say what the code says."""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from analytics.definition_reader import from_toml
from models.registry import ModelStore
from penstock import docs
from penstock.cli import build
from penstock.experiments import assignment_of
from penstock.stack_ops import StackOps
from schemas.records import RECORDS
from schemas.topics import Topics, topic_specs
from stream_workers.monitor_metrics import MonitorMetrics
from stream_workers.ops import IngestMetrics, ReplicaMetrics, WorkerMetrics, new_registry
from stream_workers.ops_alerts import AlertMetrics
from stream_workers.rollout_metrics import RolloutMetrics

PAGES = sorted(path.name for path in docs.folder().glob("*.md"))


@pytest.mark.parametrize("page", docs.PAGES)
def test_a_committed_page_is_what_would_be_generated_now(page: str) -> None:
    text = (docs.folder() / page).read_text("utf-8")
    assert "<!-- generated:" in text
    assert docs.render(text) == text, "run: python -m penstock.docs"


def test_every_topic_and_every_record_is_on_the_page() -> None:
    text = (docs.folder() / "records-and-topics.md").read_text("utf-8")
    for spec in topic_specs(Topics()):
        assert f"| `{spec.name}` |" in text
    for record in RECORDS:
        assert f"### {record.__name__}\n" in text


def test_a_part_that_nobody_generates_is_named() -> None:
    with pytest.raises(LookupError, match="no part 'weather' is generated; there are topics, records, settings"):
        docs.render("<!-- generated: weather -->\n<!-- end -->")


def test_rendering_leaves_the_rest_of_a_page_alone() -> None:
    page = "before\n<!-- generated: topics -->\nold\n<!-- end -->\nafter\n"
    once = docs.render(page)
    assert once.startswith("before\n<!-- generated: topics -->\n| topic |")
    assert once.endswith("<!-- end -->\nafter\n")
    assert docs.render(once) == once


def test_the_page_names_exactly_the_metrics_there_are() -> None:
    registry = new_registry()
    WorkerMetrics(registry, "w")
    IngestMetrics(registry)
    MonitorMetrics(registry)
    RolloutMetrics(registry)
    AlertMetrics(registry)
    ReplicaMetrics(registry)
    StackOps("127.0.0.1", 0, ["broker"], registry).stop()
    there = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
        if family.name.startswith("penstock_")
    }
    section = (docs.folder() / "operations.md").read_text("utf-8").split("## Metrics")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `penstock_")]
    named = {name for line in table for name in re.findall(r"`(penstock_\w+)`", line.split("|")[1])}
    assert named == there


TEXTS = {**{page: docs.folder() / page for page in PAGES}, "README.md": docs.folder().parent / "README.md"}


def commands(text: str) -> Iterator[list[str]]:
    """Every call of penstock in the blocks of shell, as words."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\n\s+", " ", block.replace("\\\n", " ")).splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == "penstock":
                yield words[1:]


@pytest.mark.parametrize("page", [page for page, path in TEXTS.items() if list(commands(path.read_text("utf-8")))])
def test_every_command_on_a_page_is_one_with_options_that_exist(page: str) -> None:
    for words in commands(TEXTS[page].read_text("utf-8")):
        command, rest = typer.main.get_command(build()), words
        context = click.Context(command, info_name="penstock")
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None, words
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context(context.info_name, list(rest), parent=context.parent)


def test_the_page_of_experiments_defines_one_that_can_be_created(tmp_path: Path) -> None:
    text = (docs.folder() / "experiments.md").read_text("utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "experiment.toml").write_text(example, "utf-8")
    definition = from_toml(tmp_path / "experiment.toml")
    assert assignment_of(definition).model == definition.model
    there = ModelStore(docs.folder().parent / "models" / "zoo").versions(definition.model)
    assert set(definition.versions().values()) <= set(there)
    assert f"penstock experiments start {definition.name}\n" in text
    ramps = [words for words in commands(text) if words[:2] == ["experiments", "ramp"]]
    assert {one.partition("=")[0] for words in ramps for one in words[3:]} == set(definition.shares())


def links(page: str) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)\)", (docs.folder() / page).read_text("utf-8"))


def anchors(page: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", (docs.folder() / page).read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_between_the_pages_leads_somewhere(page: str) -> None:
    for link in links(page):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        assert (docs.folder() / (target or page)).exists(), link
        if anchor:
            assert anchor in anchors(target or page), link


def test_the_picture_is_a_drawing_for_light_and_dark_that_names_topics_as_they_are() -> None:
    picture = (docs.folder() / "penstock.svg").read_text("utf-8")
    root = ET.fromstring(picture)  # noqa: S314 - a file of ours
    drawn = {
        text.text for text in root.iter("{http://www.w3.org/2000/svg}text") if text.get("class", "").startswith("mono")
    }
    assert drawn == {spec.name for spec in topic_specs(Topics())}
    assert "prefers-color-scheme: dark" in picture
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
