"""Metrics: batches counted in bulk come out as if each value had been counted alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from stream_workers.ops import BatchHistogram, IngestMetrics, WorkerMetrics, new_registry
from stream_workers.ops_metrics import MAX_UNSERVED_MODELS, OTHER

BOUNDS = (0.5, 1.0, 2.5)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 3.0, 100.0]), max_size=20), max_size=4))
def test_a_batch_histogram_says_what_prometheus_own_histogram_says(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BatchHistogram("t_seconds", "d", ("model",), bounds=BOUNDS, registry=ours)
    single = Histogram("t_seconds", "d", ("model",), buckets=BOUNDS, registry=theirs)
    for batch in batches:
        bulk.observe_many(np.array(batch, np.float64), ("a",))
        for value in batch:
            single.labels("a").observe(value)
        single.labels("a")
    kept = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == kept


def test_negative_values_count_as_zero_and_values_that_are_no_number_do_not_count() -> None:
    registry = CollectorRegistry()
    histogram = BatchHistogram("t", "d", bounds=BOUNDS, registry=registry)
    histogram.observe_many(np.array([-3.0, 0.75, np.nan, np.inf, -np.inf]))
    histogram.observe(-1.0)
    histogram.observe(float("nan"))
    histogram.observe(2.0, times=3)
    assert registry.get_sample_value("t_sum") == 6.75
    assert registry.get_sample_value("t_count") == 6
    assert registry.get_sample_value("t_bucket", {"le": "0.5"}) == 2
    assert registry.get_sample_value("t_bucket", {"le": "1.0"}) == 3


def test_threads_that_count_at_once_lose_nothing() -> None:
    registry = CollectorRegistry()
    histogram = BatchHistogram("t", "d", ("k",), bounds=BOUNDS, registry=registry)
    values = np.full(50, 0.75)

    def count() -> None:
        for _ in range(500):
            histogram.observe_many(values, ("a",))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.get_sample_value("t_count", {"k": "a"}) == 4 * 500 * 50


def test_bounds_and_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="bounds must be finite and rise"):
        BatchHistogram("t", "d", bounds=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"histogram t takes labels \('model',\), got \(\)"):
        BatchHistogram("t", "d", ("model",)).observe(1.0)


def test_a_batch_shows_in_every_figure_it_concerns() -> None:
    registry = new_registry()
    metrics = WorkerMetrics(registry, "w-1")
    metrics.batch(
        "flight-delay",
        "2",
        "treatment",
        rows=3,
        inference_seconds=0.004,
        queue_seconds=np.array([0.001, 0.002, 0.003]),
        batch_seconds=np.array([0.0, 0.001, 0.002]),
        codes={"OK": 2, "INFERENCE_FAILED": 1},
    )
    served = {"model": "flight-delay", "version": "2", "variant": "treatment"}
    assert registry.get_sample_value("penstock_rows_total", served) == 3
    assert registry.get_sample_value("penstock_requests_total", {**served, "code": "OK"}) == 2
    assert registry.get_sample_value("penstock_requests_total", {**served, "code": "INFERENCE_FAILED"}) == 1
    assert registry.get_sample_value("penstock_queue_seconds_count", {"model": "flight-delay"}) == 3
    assert registry.get_sample_value("penstock_batch_seconds_sum", {"model": "flight-delay"}) == pytest.approx(0.003)
    model = {"model": "flight-delay", "version": "2"}
    assert registry.get_sample_value("penstock_inference_seconds_sum", model) == 0.004
    assert registry.get_sample_value("penstock_batch_rows_bucket", {**model, "le": "2.0"}) == 0
    assert registry.get_sample_value("penstock_batch_rows_bucket", {**model, "le": "4.0"}) == 1


def test_made_up_model_names_cannot_fill_the_memory() -> None:
    registry = new_registry()
    metrics = WorkerMetrics(registry, "w-1")
    for number in range(MAX_UNSERVED_MODELS + 50):
        metrics.requests("UNKNOWN_MODEL", model=f"made-up-{number}")
    metrics.requests("UNKNOWN_MODEL", model="made-up-0")
    metrics.requests("OK", model="real", version="1")
    labels = {"version": "", "variant": "", "code": "UNKNOWN_MODEL"}
    assert registry.get_sample_value("penstock_requests_total", {**labels, "model": OTHER}) == 50
    assert registry.get_sample_value("penstock_requests_total", {**labels, "model": "made-up-0"}) == 2
    served = {"model": "real", "version": "1", "variant": "", "code": "OK"}
    assert registry.get_sample_value("penstock_requests_total", served) == 1


def test_lag_of_a_partition_that_was_given_back_is_forgotten() -> None:
    registry = new_registry()
    metrics = WorkerMetrics(registry, "w-1")
    metrics.lag("scoring.requests", 0, 7)
    metrics.lag("scoring.requests", 1, 9)
    metrics.lag("scoring.bulk", 0, 3)
    metrics.assigned(["scoring.requests"], {("scoring.requests", 1)})
    assert registry.get_sample_value("penstock_lag", {"topic": "scoring.requests", "partition": "0"}) is None
    assert registry.get_sample_value("penstock_lag", {"topic": "scoring.requests", "partition": "1"}) == 9
    assert registry.get_sample_value("penstock_lag", {"topic": "scoring.bulk", "partition": "0"}) == 3, "another's"


def test_only_the_device_in_use_is_shown() -> None:
    registry = new_registry()
    metrics = WorkerMetrics(registry, "w-1")
    metrics.device("cuda:0")
    metrics.device("cpu")
    assert registry.get_sample_value("penstock_device_info", {"device": "cuda:0"}) is None
    assert registry.get_sample_value("penstock_device_info", {"device": "cpu"}) == 1


def test_a_worker_and_ingest_may_share_a_process() -> None:
    registry = new_registry()
    WorkerMetrics(registry, "w-1")
    ingest = IngestMetrics(registry)
    ingest.block("predictions", 50_000, 0.2)
    ingest.failed("predictions")
    ingest.unreadable("NOT_AVRO", 2)
    ingest.lag("predictions", 3, 12)
    table = {"table": "predictions"}
    assert registry.get_sample_value("penstock_ingest_rows_total", table) == 50_000
    assert registry.get_sample_value("penstock_ingest_blocks_total", table) == 1
    assert registry.get_sample_value("penstock_ingest_insert_seconds_sum", table) == 0.2
    assert registry.get_sample_value("penstock_ingest_failures_total", table) == 1
    assert registry.get_sample_value("penstock_ingest_unreadable_total", {"reason": "NOT_AVRO"}) == 2
    ingest.assigned(set())
    assert registry.get_sample_value("penstock_ingest_lag", {"topic": "predictions", "partition": "3"}) is None
