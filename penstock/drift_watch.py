"""Runs the drift job and the wishes for training it leads to, in a thread of the process that holds the warehouse and
whenever it is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse

from analytics import retraining
from analytics.drift_job import DriftJob, Outcome, Watched
from analytics.drift_store import DriftStore
from analytics.profiles import CATEGORICAL, NUMERIC
from analytics.retraining import Policy, Wish
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from models.errors import ModelError
from models.store import Store
from penstock.drift_profile import make
from penstock.model_store import open_store
from penstock.retraining import Change, Retraining
from penstock.rounds import Rounds
from penstock.warehouse_app import is_loopback
from producers.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from penstock.settings import Settings
    from producers.control import ControlTopic

log = logging.getLogger(__name__)
# Outcomes are judged days after their flights; the last days of both are asked for.
_LOOK_BACK: Final = timedelta(days=4)


class Versions:
    """The versions of a model store as the drift job watches them; `live` of the control topic wins over the store."""

    def __init__(self, store: Store, topic: ControlTopic | None) -> None:
        self._store = store
        self._topic = topic

    def live(self) -> dict[str, str]:
        """The default version of each model. Raises `ModelError`, `BrokerUnavailableError`."""
        import json

        found = {name: self._store.default_version(name) for name in self._store.names()}
        if self._topic is not None:
            for (kind, name), entry in self._topic.entries().items():
                if kind == "model" and name in found:
                    found[name] = str(json.loads(entry.body)["version"])
        return found

    def watched(self) -> Iterator[Watched]:
        """Every version of the store; one whose manifest cannot be read is told and left out."""
        for name in self._store.names():
            for version in self._store.versions(name):
                try:
                    manifest = self._store.manifest(name, version)
                except ModelError as error:
                    log.warning("drift of %s %s has no profile: %s", name, version, error)
                    continue
                takes = {one.name: CATEGORICAL if one.vocabulary else NUMERIC for one in manifest.signature.features}
                yield Watched(name, version, manifest.profile, takes)


class DriftRounds:
    """A round of the job, and what follows from it. Each call is a whole round; see `DriftJob.run` for what is raised,
    and `BrokerUnavailableError`."""

    def __init__(
        self, warehouse: Warehouse, versions: Versions, wishes: Retraining | None, policy: Policy, job: DriftJob
    ) -> None:
        self._warehouse = warehouse
        self._versions = versions
        self._retraining = wishes
        self._policy = policy
        self._job = job

    def run(self, only: str = "", again: tuple[datetime, datetime] | None = None) -> tuple[list[Outcome], list[Change]]:
        """Count, then open and close wishes for training."""
        outcomes = self._job.run(only=only, again=again)
        if self._retraining is None:
            return outcomes, []
        live = self._versions.live()
        now = datetime.now(UTC)
        wishes = {}
        for one in outcomes:
            if not one.error and live.get(one.model) == one.version:
                wish = self._wish(one.model, one.version, now)
                if wish is not None:
                    wishes[one.model] = wish
        return outcomes, self._retraining.settle(wishes, live)

    def _wish(self, model: str, version: str, now: datetime) -> Wish | None:
        closed = self._warehouse.query(retraining.CLOSED, {"model": model}).scalar()
        # What was known when a wish was closed does not open it again.
        begin = max(now - timedelta(days=self._policy.days) - _LOOK_BACK, closed)
        places = {"model": model, "version": version, "begin": begin}
        kept = DriftStore(self._warehouse).profile(model, version)
        rows = self._warehouse.query(retraining.FIGURES, places).rows
        made_at = max(kept.made_at if kept else now, closed)
        return retraining.wish(model, version, rows, made_at, self._policy, now)


def rounds(settings: Settings, warehouse: Warehouse, topic: ControlTopic | None) -> DriftRounds:
    """As the settings say. `topic` None: nobody is asked to train."""
    from analytics.drift_figures import Limits

    drift = settings.drift
    limits = Limits(psi=drift.psi, ks=drift.ks, fall=drift.fall, rows=drift.rows)
    policy = Policy(drift.retrain_days, timedelta(days=drift.retrain_every_days))
    versions = Versions(open_store(settings.models), topic)
    job = DriftJob(warehouse, versions.watched, limits)
    return DriftRounds(warehouse, versions, None if topic is None else Retraining(topic), policy, job)


class DriftWatch(Rounds):
    """The drift job every `seconds`; 0: only when asked."""

    def __init__(self, warehouse: Warehouse, rounds: DriftRounds, seconds: float) -> None:
        """`warehouse`: the session that the rounds use and nobody else; closed at the end."""
        self._rounds = rounds
        super().__init__("drift", rounds.run, seconds, warehouse, (WarehouseError, BrokerUnavailableError, ModelError))

    def round(self, only: str, again: tuple[datetime, datetime] | None) -> dict[str, Any]:
        """A round now, as JSON values: `outcomes` (see `Outcome.as_dict`) and `retrain` (what changed, in words)."""
        return as_document(*self._rounds.run(only, again))

    def profile(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Make and keep a reference profile: see `penstock.drift_profile.make`."""
        return make(self._warehouse, wanted, datetime.now(UTC))


def as_document(outcomes: list[Outcome], changes: list[Change]) -> dict[str, Any]:
    """A round as JSON values."""
    return {"outcomes": [one.as_dict() for one in outcomes], "retrain": [one.words for one in changes]}


def again_of(begin: str, end: str) -> tuple[datetime, datetime] | None:
    """The range of days to count again, ISO dates, the last one in it; None without. Raises `ValueError`."""
    if not begin and not end:
        return None
    first = datetime.fromisoformat(begin or end).replace(tzinfo=UTC)
    last = datetime.fromisoformat(end or begin).replace(tzinfo=UTC)
    if last < first:
        raise ValueError(f"the last day, {end}, lies before the first, {begin}")
    return first, last + timedelta(days=1)


def serve(app: FastAPI, watch: DriftWatch) -> None:
    """Add POST `/drift/run` (?model=&from=&to=), from this machine only, as it writes."""

    def run(
        request: Request,
        model: str = "",
        begin: Annotated[str, Query(alias="from")] = "",
        end: Annotated[str, Query(alias="to")] = "",
    ) -> JSONResponse:
        if request.client is None or not is_loopback(request.client.host):
            return JSONResponse({"error": "drift is counted for who asks on the machine itself"}, 403)
        try:
            return JSONResponse(_plain(watch.round(model, again_of(begin, end))))
        except (WarehouseUnavailableError, BrokerUnavailableError) as error:
            return JSONResponse({"error": str(error)}, 503)
        except (WarehouseError, ModelError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 400)

    app.post("/drift/run", response_model=None)(run)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
