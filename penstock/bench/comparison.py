"""What a comparison's rounds come to: rates, ratios within a round, goals, a table, what fell behind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.bench.figures import Spread

# A fresh ratio below this share of the committed one is a regression.
FLOOR: Final = 0.8
Rates = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Goal:
    """Something to be reached: `measured` at least, or at most, `limit`."""

    work: str
    what: str
    limit: float
    measured: float
    at_most: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "work": self.work,
            "what": self.what,
            "at_most" if self.at_most else "at_least": self.limit,
            "measured": round(self.measured, 3),
            "unit": self.unit,
            "met": self.met,
        }


def ratios(rates: Rates, of: str, against: str) -> Spread | None:
    """`of` by `against`, round by round; None where one of them was not measured in every round of the other."""
    own, others = rates.get(of, ()), rates.get(against, ())
    if not own or len(own) != len(others):
        return None
    return Spread(tuple(one / other for one, other in zip(own, others, strict=True)))


def goals_of(work: str, rates: Rates, of: str, limits: Mapping[str, float], shown: Mapping[str, str]) -> list[Goal]:
    """A goal for each candidate of `limits` that was measured: the median ratio of `of` against it."""
    found = []
    for against, limit in limits.items():
        ratio = ratios(rates, of, against)
        if ratio is not None:
            found.append(Goal(work, f"{shown[of]} against {shown[against]}", limit, ratio.median))
    return found


def regressions(fresh: Iterable[Mapping[str, Any]], committed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ratios that fell below `FLOOR` of the committed ones, in lines; of one committed twice the later counts.

    Only what both have is compared.
    """
    before = {(one["work"], one["what"]): one for one in committed}
    found = []
    for one in fresh:
        old = before.get((one["work"], one["what"]))
        # Milliseconds say as much of the machine as of the program; only ratios carry over.
        if old is None or "at_least" not in one or one["unit"]:
            continue
        if one["measured"] < old["measured"] * FLOOR:
            found.append(
                f"{one['work']}: {one['what']} is {one['measured']:.3g}, "
                f"below {FLOOR:g} of the committed {old['measured']:.3g}"
            )
    return found


def rates_table(
    rates: Rates, shown: Mapping[str, str], records: Mapping[str, int], of: str, failed: Mapping[str, str]
) -> list[str]:
    """The candidates in Markdown: records a second, median and ends, and how often `of` is as fast."""
    lines = [
        "| candidate | records/s | smallest to largest | records a round | Penstock is so many times as fast |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, label in shown.items():
        if name in failed:
            lines.append(f"| {label} | | | | not timed: {failed[name]} |")
        elif name in rates:
            own, ratio = Spread(tuple(rates[name])), ratios(rates, of, name)
            many = "" if ratio is None else f"{ratio.median:.2f} ({min(ratio.values):.2f} to {max(ratio.values):.2f})"
            ends = f"{min(own.values):,.0f} to {max(own.values):,.0f}"
            lines.append(f"| {label} | {own.median:,.0f} | {ends} | {records[name]:,} | {many} |")
    return lines


def goals_table(goals: Sequence[Mapping[str, Any]]) -> list[str]:
    """Goals and what was measured, in Markdown."""
    lines = ["| work | what | goal | measured | |", "|---|---|---:|---:|---|"]
    for one in goals:
        unit = f" {one['unit']}" if one["unit"] else ""
        goal = f"at most {one['at_most']:g}" if "at_most" in one else f"at least {one['at_least']:g}"
        reached = "reached" if one["met"] else "**not reached**"
        lines.append(f"| {one['work']} | {one['what']} | {goal}{unit} | {one['measured']:.3g}{unit} | {reached} |")
    return lines


def report(document: Mapping[str, Any], picture: str = "") -> str:
    """The whole document in Markdown."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Penstock beside its peers",
        "",
        f"{machine['date'][:10]}, {document['broker']}, {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gib']} GiB, Python {machine['python']}; {versions}.",
        "",
    ]
    if picture:
        lines += [f"![records a second]({picture})", ""]
    if document["goals"]:
        lines += ["## Goals", "", *goals_table(document["goals"]), ""]
    for name, work in document["works"].items():
        lines += [f"## {name}", "", work["title"], ""]
        if "table" in work:
            lines += [*work["table"], ""]
        lines += [f"- {note}" for note in work.get("notes", ())]
        lines += [f"- Do not trust this: {line}" for line in work.get("doubts", ())]
        lines.append("")
    peers = "; ".join(
        f"{name}: {', '.join(f'{package} {version}' for package, version in own.items())}"
        for name, own in document.get("peers", {}).items()
    )
    if peers:
        lines += [f"Peers' versions: {peers}.", ""]
    return "\n".join(lines).rstrip() + "\n"
