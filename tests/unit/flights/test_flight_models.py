"""The committed models: what they take, what they answer, and that the script makes them again."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from models.errors import InvalidInputError
from models.loading import LoadedModel
from models.registry import ModelStore
from penstock.flights.data import Dataset, dataset, features, flights
from penstock.flights.evaluation import Sample, auc, calibration, log_loss, profile
from penstock.flights.features import CATEGORIES, FEATURES, NUMERIC, OPTIONAL
from penstock.flights.signature import flight_signature
from schemas.tensors import Array

ZOO = Path(__file__).parents[3] / "models" / "zoo"
MODEL = "flight-delay"
VERSIONS = ("1", "2")
ROWS = 1000


@pytest.fixture(scope="module")
def store() -> ModelStore:
    return ModelStore(ZOO)


@pytest.fixture(scope="module", params=VERSIONS)
def model(request: pytest.FixtureRequest, store: ModelStore) -> LoadedModel:
    return LoadedModel.load(store, MODEL, request.param, "cpu")


@pytest.fixture(scope="module")
def april() -> dict[str, Array]:
    """Inputs of a thousand flights spread over April."""
    data = dataset()
    rows = data.between(date(2013, 4, 1), 30)
    at = np.linspace(rows.start, rows.stop - 1, ROWS).astype(int)
    made = flight_signature(data).assemble_columns({name: data.features[name][at] for name in FEATURES}, ROWS)
    assert not made.errors
    assert np.isnan(made.inputs["numeric"][:, NUMERIC.index("seats")]).any()
    return made.inputs


def _score(model: LoadedModel, inputs: dict[str, Array]) -> Array:
    (answer,) = model.run([inputs])
    return answer["probability"]


def test_both_versions_have_one_signature_the_one_of_the_data(store: ModelStore) -> None:
    signatures = [store.manifest(MODEL, version).signature for version in VERSIONS]
    assert signatures[0] == signatures[1] == flight_signature(dataset())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_smaller_than_a_megabyte(store: ModelStore, version: str) -> None:
    assert sum(entry.size for entry in store.manifest(MODEL, version).files) < 1_000_000


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_file_names_no_path_of_the_machine_that_made_it(store: ModelStore, version: str) -> None:
    content = store.artifact(MODEL, version).read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_a_flights_features_score_by_name_as_they_do_in_bulk(model: LoadedModel) -> None:
    some = [flight for flight, _ in zip(flights(date(2013, 4, 10), 1), range(50), strict=False)]
    signature = model.manifest.signature
    named = signature.assemble([features(flight) for flight in some])
    assert not named.errors
    data = dataset()
    rows = slice(data.between(date(2013, 4, 10), 1).start, data.between(date(2013, 4, 10), 1).start + 50)
    bulk = signature.assemble_columns({name: data.features[name][rows] for name in FEATURES}, 50)
    np.testing.assert_array_equal(_score(model, named.inputs), _score(model, bulk.inputs))


def test_a_probability_is_finite_and_between_0_and_1_with_everything_optional_missing(model: LoadedModel) -> None:
    flight = next(flights(date(2013, 4, 10), 1))
    known = {name: value for name, value in features(flight).items() if name not in OPTIONAL}
    made = model.manifest.signature.assemble([known, {**known, **dict.fromkeys(OPTIONAL, None)}])
    assert not made.errors
    assert np.isnan(made.inputs["numeric"]).sum() == 2 * len(OPTIONAL)
    scores = _score(model, made.inputs)
    assert scores[0] == scores[1]
    assert 0 < scores[0] < 1


@pytest.mark.parametrize("value", [-1e30, -1.0, 0.0, 1e30])
def test_no_number_however_wild_makes_a_score_that_is_none(model: LoadedModel, value: float) -> None:
    known = {**features(next(flights(date(2013, 4, 10), 1))), **dict.fromkeys(OPTIONAL, value)}
    scores = _score(model, model.manifest.signature.assemble([known]).inputs)
    assert 0 <= scores[0] <= 1


def test_an_unseen_value_gets_the_index_after_the_vocabulary_and_a_score(model: LoadedModel) -> None:
    known = features(next(flights(date(2013, 4, 10), 1)))
    signature = model.manifest.signature
    words = {spec.name: spec.vocabulary for spec in signature.features if spec.vocabulary}
    assert {name: len(words[name]) for name in CATEGORIES} == {
        "carrier": 16,
        "origin": 3,
        "destination": 94,
        "day_of_week": 7,
    }
    made = signature.assemble([{**known, "carrier": "ZZ", "destination": "???"}, known])
    assert not made.errors
    assert made.inputs["carrier"].tolist() == [16, words["carrier"].index(str(known["carrier"]))]
    assert made.inputs["destination"].tolist()[0] == 94
    scores = _score(model, made.inputs)
    assert 0 < scores[0] < 1
    assert scores[0] != scores[1]


def test_a_destination_that_opened_after_january_is_unseen() -> None:
    data = dataset()
    (destination,) = (spec for spec in flight_signature(data).features if spec.name == "destination")
    april = data.features["destination"][data.between(date(2013, 4, 1), 30)]
    assert set(april.tolist()) - set(destination.vocabulary) == {"ABQ", "BGR", "CHO"}


@pytest.mark.parametrize("name", [*CATEGORIES, "distance", "departure_hour", "scheduled_minutes"])
def test_what_is_always_known_must_be_given(model: LoadedModel, name: str) -> None:
    known = {**features(next(flights(date(2013, 4, 10), 1)))}
    del known[name]
    assert name in model.manifest.signature.assemble([known]).errors[0]


def test_an_extra_column_is_refused(model: LoadedModel) -> None:
    columns = {name: values[:2] for name, values in dataset().features.items()}
    with pytest.raises(InvalidInputError, match="arrival_delay"):
        model.manifest.signature.assemble_columns({**columns, "arrival_delay": np.zeros(2)}, 2)


def test_the_manifests_figures_are_those_of_the_model_in_april(model: LoadedModel) -> None:
    data = dataset()
    rows = data.between(date(2013, 4, 1), 30)
    labels = data.labels(rows)
    at = np.flatnonzero(~np.isnan(labels)) + rows.start
    columns = {name: values[at] for name, values in data.features.items()}
    inputs = model.manifest.signature.assemble_columns(columns, len(at)).inputs
    scores = np.asarray(_score(model, inputs), np.float64)
    held = model.manifest.metrics["holdout"]
    labels = labels[at - rows.start]
    assert held["rows"] == len(labels) == 27_564
    assert auc(labels, scores) == pytest.approx(held["auc"], abs=1e-4)
    assert log_loss(labels, scores) == pytest.approx(held["log_loss"], abs=1e-4)
    # Better than to answer everybody with the share of late flights in training.
    base = model.manifest.metrics["train"]["late_share"]
    assert held["log_loss"] < log_loss(labels, np.full(len(labels), base)) - 0.05
    assert held["auc"] > 0.7


def test_version_2_is_the_better_one_in_april(store: ModelStore) -> None:
    one, two = (store.manifest(MODEL, version).metrics["holdout"] for version in VERSIONS)
    assert two["auc"] > one["auc"]
    assert two["log_loss"] < one["log_loss"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profile_describes_the_training_data(store: ModelStore, version: str) -> None:
    manifest = store.manifest(MODEL, version)
    described, data = manifest.profile, dataset()
    rows = data.between(date(2013, 1, 1), {"1": 31, "2": 90}[version])
    assert list(described["features"]) == list(FEATURES)
    assert described["rows"] == manifest.metrics["train"]["rows"] == sum(described["score"]["histogram"])
    known = ~np.isnan(data.labels(rows))
    for name in FEATURES:
        one, values = described["features"][name], data.features[name][rows][known]
        if name in CATEGORIES:
            assert sum(one["shares"].values()) + one["unseen_share"] == pytest.approx(1, abs=1e-4)
            assert one["shares"]["EWR" if name == "origin" else values[0]] > 0
            continue
        # In the float32 that a model gets, a value falls into the bin it fell into in training.
        filled = values[~np.isnan(values)].astype(np.float32)
        counts = np.bincount(np.searchsorted(one["edges"], filled), minlength=len(one["edges"]) + 1)
        np.testing.assert_allclose(counts / len(filled), one["shares"], atol=1e-6)
        assert one["null_share"] == pytest.approx(np.isnan(values).mean(), abs=1e-6)
        assert min(one["shares"]) > 0


def test_auc_and_log_loss_have_their_known_values() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    # The example of scikit-learn's documentation of roc_auc_score.
    assert auc(labels, scores) == 0.75
    assert auc(labels, np.full(4, 0.5)) == 0.5
    assert log_loss(labels, np.full(4, 0.5)) == pytest.approx(np.log(2))


def test_calibration_groups_hold_every_row_once_in_order_of_score() -> None:
    scores = np.linspace(1, 0, 103)
    groups = calibration((scores > 0.5).astype(float), scores)
    assert sum(one["rows"] for one in groups) == 103
    assert [one["late_share"] for one in groups][:4] == [0, 0, 0, 0]
    assert groups == sorted(groups, key=lambda one: one["mean_score"])


def test_a_profile_bin_is_never_empty_in_its_own_data() -> None:
    rain = np.array([0.0] * 95 + [0.2] * 5)
    labels = np.zeros(100)
    one = profile(Sample({"rain": rain}, labels, labels, np.zeros(100, np.int64)))["features"]["rain"]
    assert one["edges"] == [0.1]
    assert one["shares"] == [0.95, 0.05]


@pytest.mark.train
@pytest.mark.parametrize("version", VERSIONS)
def test_torch_and_onnx_runtime_agree_to_1e5_on_a_thousand_real_rows(
    store: ModelStore,
    version: str,
    april: dict[str, Array],
) -> None:
    torch = pytest.importorskip("torch")
    from penstock.flights.export import WEIGHTS, read_weights
    from penstock.flights.signature import category_sizes
    from penstock.flights.train import new_perceptron, new_regression

    nothing = torch.empty((0, len(NUMERIC)))
    new = {"1": new_regression, "2": new_perceptron}[version]
    net = new(nothing, category_sizes(store.manifest(MODEL, version).signature)).eval()
    read_weights(net, ZOO / MODEL / version / WEIGHTS)
    with torch.no_grad():
        expected = net(*(torch.from_numpy(april[name]) for name in ("numeric", *CATEGORIES))).numpy()
    scores = _score(LoadedModel.load(store, MODEL, version, "cpu"), april)
    assert scores.shape == (ROWS,)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    assert scores.std() > 0.05


@pytest.mark.train
@pytest.mark.parametrize("version", VERSIONS)
def test_the_script_makes_the_committed_version_again(store: ModelStore, version: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from penstock.flights.train import TOLERANCE, train, write

    data: Dataset = dataset()
    committed = store.manifest(MODEL, version)
    again = write(train(version, data), tmp_path)
    assert again.signature == committed.signature
    for part in ("train", "holdout"):
        for name, value in committed.metrics[part].items():
            made = again.metrics[part][name]
            assert made == (pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value), (part, name)
    assert again.lineage["data"] == committed.lineage["data"]
    assert [entry.path for entry in again.files] == [entry.path for entry in committed.files]
