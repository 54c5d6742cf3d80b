"""What the settings say of pools reaches each process: topics, groups that nobody shares, and a worker's memory."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import yaml

from models.catalog import Holding
from penstock.commands.worker import scoring_config
from penstock.pools import check_pool, placement, pool_groups, pool_specs
from penstock.settings import Settings, SettingsError, load
from penstock.stack import LocalStack
from schemas.placement import PlacementError

ROOT = Path(__file__).parents[3]


def settings(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "penstock.toml"
    file.write_text(text)
    return load(file, environ={f"PENSTOCK_{name}": value for name, value in environ.items()}, stack=False)


TWO = """
kafka.topic_prefix = "p."
models.memory = "1.5GiB"
models.pinned = ["late"]
[pools.heavy]
models = ["bert-*"]
workers = 2
spares = 1
memory = 3000000
preload = false
pinned = ["bert-large"]
device = "cuda"
[pools.x]
models = ["x"]
bulk_topic = "files"
partitions = 3
"""


def test_a_worker_of_a_pool_has_its_topics_group_and_memory(tmp_path: Path) -> None:
    found = settings(tmp_path, TWO)
    default = scoring_config(found, "w")
    assert (default.topics, default.group, default.pool) == (found.kafka.topics, "penstock-scoring", "")
    assert default.holding == Holding(1_610_612_736, True, ("late",))
    heavy = scoring_config(found, "w", pool="heavy")
    assert (heavy.topics.requests, heavy.topics.bulk) == ("p.scoring.heavy.requests", "p.scoring.heavy.bulk")
    assert heavy.topics.predictions == "p.predictions"
    assert (heavy.group, heavy.device) == ("penstock-scoring.heavy", "cuda")
    assert heavy.holding == Holding(3_000_000, False, ("bert-large",))
    assert heavy.placement == default.placement == placement(found)
    assert scoring_config(found, "w", pool="x").holding == Holding(1_610_612_736, True, ())
    assert placement(found).of("x").bulk == "p.files"


def test_without_pools_nothing_is_otherwise() -> None:
    config = scoring_config(Settings(), "w")
    assert (config.group, config.holding) == ("penstock-scoring", Holding())
    assert pool_groups(Settings()) == [
        ("penstock-scoring", "scoring.requests"),
        ("penstock-scoring-bulk", "scoring.bulk"),
    ]


def test_no_two_pools_share_a_group_or_the_beginning_of_a_transactional_id(tmp_path: Path) -> None:
    names = ("a", "a_bulk", "bulk", "requests", "a_requests", "1")
    text = "".join(f'[pools.{name}]\nmodels = ["m-{name}"]\n' for name in names)
    groups = [group for group, _ in pool_groups(settings(tmp_path, text))]
    assert len(set(groups)) == 2 * (len(names) + 1)
    # As `ScoringWorker` makes them, for a worker that may have any name.
    begins = [f"{group.removesuffix('-bulk')}-{kind}-" for group in set(groups) for kind in ("requests", "bulk")]
    for one, other in combinations(sorted(set(begins)), 2):
        assert not other.startswith(one)


def test_topics_of_pools_are_created_with_their_partitions(tmp_path: Path) -> None:
    specs = pool_specs(settings(tmp_path, TWO, KAFKA__PARTITIONS="1"))
    found = {one.name: one.partitions for one in specs}
    assert found["p.scoring.requests"] == 1
    assert found["p.scoring.heavy.requests"] == found["p.scoring.heavy.bulk"] == 2, "a worker without one is idle"
    assert found["p.scoring.x.requests"] == found["p.files"] == 3


def test_the_stack_starts_each_pools_workers_and_spares(tmp_path: Path) -> None:
    stack = LocalStack(settings(tmp_path, TWO), workers=1)
    heavy = {f"heavy-worker-{number}": "heavy" for number in (1, 2, 3)}
    assert stack._worker_pools() == {"worker-1": "", **heavy, "x-worker-1": "x"}
    assert LocalStack(settings(tmp_path, TWO), workers=0)._worker_pools() == {}


def test_children_get_the_pools_in_their_environment(tmp_path: Path) -> None:
    found = settings(tmp_path, TWO)
    again = load(environ=found.environment(), stack=False)
    assert again.pools == found.pools
    assert again.models.memory == found.models.memory


def test_a_pool_can_come_from_the_environment_alone(tmp_path: Path) -> None:
    given = {"POOLS__HEAVY__MODELS": '["a"]', "POOLS__HEAVY__MEMORY": "2GB", "MODELS__MEMORY": "5000000000"}
    found = settings(tmp_path, "", **given)
    assert (found.pools["heavy"].models, found.pools["heavy"].memory) == (("a",), 2_000_000_000)
    assert found.models.memory == 5_000_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pools.heavy]\nworkers = 1", "pools.heavy.models"),
        ("[pools.heavy]\nmodels = []", "pools.heavy.models"),
        ("[pools.heavy]\nmodels = ['a']\nmemory = 'much'", "pools.heavy.memory: expected a number of bytes"),
        ("[pools.heavy]\nmodels = ['a']\nmodel = 'a'", "pools.heavy.model: no such key"),
        ("[pools.default]\nmodels = ['a']", "'default' is no name for a pool"),
        ("[pools.a-b]\nmodels = ['a']", "'a-b' is no name for a pool"),
        ("[pools.a]\nmodels = ['m']\n[pools.b]\nmodels = ['m']", "pool b: m is in pool a already"),
        ("models.memory = '1 barrel'", "models.memory: expected a number of bytes"),
        ("models.memory = 0", "models.memory = 0: expected greater than or equal to 1"),
    ],
)
def test_a_wrong_pool_is_one_line_that_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pool_that_nobody_defined_is_one_line_that_names_those_there_are(tmp_path: Path) -> None:
    found = settings(tmp_path, TWO)
    assert [check_pool(found, name) for name in ("", "default", "heavy")] == ["", "", "heavy"]
    with pytest.raises(PlacementError, match="there is no pool 'light' in the settings; there are default, heavy, x"):
        check_pool(found, "light")


def test_the_compositions_pool_is_valid_and_known_to_all_who_need_it() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.pools.yml").read_text("utf-8"))["services"]
    plain = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert {name for name in services if name != "worker-heavy"} <= set(plain)
    (environment,) = {tuple(sorted(one["environment"].items())) for one in services.values()}
    given = {name: value.split(":-", 1)[1][:-1] if value.startswith("${") else value for name, value in environment}
    found = load(environ={**given, "PENSTOCK_CONFIG": "/dev/null"}, stack=False)
    assert check_pool(found, services["worker-heavy"]["command"][-1]) == "heavy"
    assert found.pools["heavy"].models == ("flight-delay",)
    assert {"topics", "worker", "ingest", "monitor"} <= set(services)
