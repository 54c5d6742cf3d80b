"""Who is compared, in which order, on how many records."""

from __future__ import annotations

import pytest

from penstock.bench.candidates import BY_NAME, CANDIDATES, OURS, Kind, chosen, rotated
from penstock.bench.peer_process import PEERS, pinned


def test_each_runs_early_and_late_and_nobody_is_left_out() -> None:
    orders = [rotated(list("abcdefghi"), turn, 3) for turn in range(3)]
    assert orders == [list("abcdefghi"), list("defghiabc"), list("ghiabcdef")]


def test_more_turns_than_candidates_still_turn() -> None:
    assert [rotated(["a", "b"], turn, 5)[0] for turn in range(5)] == ["a", "b", "a", "b", "a"]
    assert rotated([], 3, 5) == []


def test_a_slow_candidate_is_timed_on_fewer_records_and_never_on_more_than_asked() -> None:
    slow, fast = BY_NAME["faust"], BY_NAME[OURS]
    assert slow.most is not None
    assert slow.records(10 * slow.most) == slow.most
    assert slow.records(7) == 7
    assert fast.records(600_000) == 600_000


def test_candidates_are_chosen_by_name_in_the_tables_order() -> None:
    assert [one.name for one in chosen(["raw", OURS])] == [OURS, "raw"]
    assert chosen([]) == CANDIDATES
    with pytest.raises(ValueError, match="no candidate 'spark'"):
        chosen(["spark"])


@pytest.mark.parametrize("folder", [one.folder for one in CANDIDATES if one.kind is Kind.PEER])
def test_every_peer_is_pinned_and_names_no_index(folder: str) -> None:
    lines = (PEERS / folder / "requirements.txt").read_text().splitlines()
    assert len(pinned(folder)) == len(lines)
    assert not any(line.startswith("-") or "://" in line for line in lines)
    assert (PEERS / folder / "worker.py").is_file()
