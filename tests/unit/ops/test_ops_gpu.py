"""A GPU's figures are asked for when they are read, and left out, with one line in the log, where they cannot be."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from models.errors import DeviceError
from stream_workers.ops_gpu import GpuCollector
from stream_workers.ops_metrics import WorkerMetrics, new_registry

PATIENCE = 30.0
BUS = {0: "0000:3b:00.0", 1: "0000:18:00.0"}


class Nvml:
    """pynvml's functions for two GPUs, in the order of the bus: CUDA counts the other way round."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - its name there
        pass

    def __init__(self) -> None:
        self.inits = 0
        self.asked = 0
        self.fail: dict[str, Exception] = {}
        self.wait: threading.Event | None = None
        self.waiting = threading.Event()

    def _may(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def nvmlInit(self) -> None:  # noqa: N802
        self.inits += 1
        self._may("nvmlInit")

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> int:  # noqa: N802
        return sorted(BUS.values()).index(bus)

    def nvmlDeviceGetName(self, gpu: int) -> bytes:  # noqa: N802
        return (b"Card A", b"Card B")[gpu]

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> Any:  # noqa: N802
        self.asked += 1
        if self.wait is not None:
            self.waiting.set()
            assert self.wait.wait(PATIENCE)
        self._may("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=93 if gpu else 7, memory=40)

    def nvmlDeviceGetMemoryInfo(self, _gpu: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=2 << 30, used=1 << 30, free=1 << 30)

    def nvmlDeviceGetTemperature(self, _gpu: int, sensor: int) -> int:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61

    def nvmlDeviceGetPowerUsage(self, _gpu: int) -> int:  # noqa: N802
        self._may("nvmlDeviceGetPowerUsage")
        return 250_500


def watched(nvml: Nvml, device: str = "cuda:0") -> tuple[CollectorRegistry, GpuCollector]:
    registry = CollectorRegistry()
    collector = GpuCollector(registry, lambda: nvml, BUS.__getitem__)
    collector.watch(device)
    return registry, collector


def figures(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("penstock_gpu_")
    }


def test_all_figures_of_the_gpu_in_use_are_shown() -> None:
    nvml = Nvml()
    registry, _ = watched(nvml)
    assert nvml.inits == 0
    assert figures(registry) == {
        "penstock_gpu_utilization_ratio": 0.93,
        "penstock_gpu_memory_used_bytes": 1 << 30,
        "penstock_gpu_memory_bytes": 2 << 30,
        "penstock_gpu_temperature_celsius": 61,
        "penstock_gpu_power_watts": 250.5,
    }
    figures(registry)
    assert (nvml.inits, nvml.asked) == (1, 2)
    assert b'penstock_gpu_power_watts{device="cuda:0",gpu="Card B"} 250.5' in generate_latest(registry)


@pytest.mark.parametrize(("device", "value"), [("cuda:0", 0.93), ("cuda:1", 0.07), ("tensorrt:1", 0.07)])
def test_cudas_numbers_are_found_by_where_the_gpu_is(device: str, value: float) -> None:
    registry, _ = watched(Nvml(), device)
    labels = {"device": device, "gpu": "Card B" if value > 0.5 else "Card A"}
    assert registry.get_sample_value("penstock_gpu_utilization_ratio", labels) == value


def test_a_worker_on_a_cpu_asks_nobody() -> None:
    nvml = Nvml()
    registry, collector = watched(nvml, "cpu")
    assert figures(registry) == {}
    collector.watch("cuda:0")
    assert len(figures(registry)) == 5
    collector.watch("cpu")
    assert figures(registry) == {}
    assert nvml.asked == 1


def missing() -> Any:
    raise ModuleNotFoundError("No module named 'pynvml'")


def no_driver() -> Any:
    nvml = Nvml()
    nvml.fail["nvmlInit"] = nvml.NVMLError("Driver Not Loaded")
    return nvml


def no_cuda(_: int) -> str:
    raise DeviceError("CUDA's runtime library is missing")


@pytest.mark.parametrize(
    ("nvml", "bus_id", "why"),
    [
        (missing, BUS.__getitem__, "No module named 'pynvml'"),
        (no_driver, BUS.__getitem__, "Driver Not Loaded"),
        (Nvml, no_cuda, "CUDA's runtime library is missing"),
    ],
)
def test_where_nvml_cannot_be_had_there_is_one_warning_and_no_figure(
    nvml: Any, bus_id: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    collector = GpuCollector(registry, nvml, bus_id)
    collector.watch("cuda:0")
    with caplog.at_level(logging.WARNING):
        assert [figures(registry) for _ in range(3)] == [{}, {}, {}]
    assert [one.getMessage() for one in caplog.records] == [
        f"no figures of cuda:0 in /metrics: NVML: {why} "
        "(nvidia-ml-py, of the extra `gpu`, and NVIDIA's driver bring it)"
    ]


def test_a_figure_this_gpu_does_not_have_is_left_out_alone(caplog: pytest.LogCaptureFixture) -> None:
    nvml = Nvml()
    nvml.fail["nvmlDeviceGetPowerUsage"] = nvml.NVMLError_NotSupported("Not Supported")
    registry, _ = watched(nvml)
    with caplog.at_level(logging.WARNING):
        found = figures(registry)
    assert len(found) == 4
    assert "penstock_gpu_power_watts" not in found
    assert not caplog.records


def test_a_gpu_that_is_lost_has_no_figures_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    nvml = Nvml()
    registry, _ = watched(nvml)
    nvml.fail["nvmlDeviceGetUtilizationRates"] = nvml.NVMLError("GPU is lost")
    with caplog.at_level(logging.WARNING):
        assert [figures(registry), figures(registry)] == [{}, {}]
    assert len(caplog.records) == 1
    nvml.fail.clear()
    assert len(figures(registry)) == 5


def test_a_scrape_beside_one_that_hangs_is_answered_with_the_last_figures() -> None:
    nvml = Nvml()
    registry, _ = watched(nvml)
    before = figures(registry)
    nvml.wait = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(figures, registry)
        assert nvml.waiting.wait(PATIENCE)
        assert figures(registry) == before
        nvml.wait.set()
        assert hanging.result(PATIENCE) == before


def test_a_workers_metrics_tell_of_its_gpu(caplog: pytest.LogCaptureFixture) -> None:
    registry = new_registry()
    metrics = WorkerMetrics(registry, "w-1")
    assert figures(registry) == {}
    metrics.device("cpu")
    with caplog.at_level(logging.WARNING):
        assert figures(registry) == {}
    assert not caplog.records


@pytest.mark.gpu
def test_a_real_gpu_tells_its_figures() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is missing")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"NVML finds no GPU: {error}")
    registry = new_registry()
    WorkerMetrics(registry, "w-1").device("cuda:0")
    found = figures(registry)
    assert 0 <= found["penstock_gpu_utilization_ratio"] <= 1
    assert 0 < found["penstock_gpu_memory_used_bytes"] <= found["penstock_gpu_memory_bytes"]
    assert 0 < found["penstock_gpu_temperature_celsius"] < 130
