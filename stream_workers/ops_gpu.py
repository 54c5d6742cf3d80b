"""What a GPU says of itself, asked by NVML whenever somebody reads /metrics: the worker never waits for it."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from models.cuda_memory import CudaCallError, CudaMemory
from models.errors import DeviceError

log = logging.getLogger(__name__)

# Name, meaning, and how NVML is asked: of its functions and a GPU's handle.
_FIGURES: Final[tuple[tuple[str, str, Callable[[Any, Any], float]], ...]] = (
    (
        "penstock_gpu_utilization_ratio",
        "Share of the last sample period, up to a second, in which the GPU computed",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    (
        "penstock_gpu_memory_used_bytes",
        "The GPU's memory that is in use, by whichever process",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    ("penstock_gpu_memory_bytes", "The GPU's memory", lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total),
    (
        "penstock_gpu_temperature_celsius",
        "The GPU's temperature",
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
    (
        "penstock_gpu_power_watts",
        "What the GPU draws",
        lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ),
)
_LABELS: Final = ("device", "gpu")
_HINT: Final = "nvidia-ml-py, of the extra `gpu`, and NVIDIA's driver bring it"


def _pynvml() -> Any:
    return importlib.import_module("pynvml")


def _bus_id(number: int) -> str:
    return CudaMemory(number).pci_bus_id


class GpuCollector:
    """The figures of the GPU a worker scores on; none while it scores on none.

    Where NVML is missing or fails, the log says so once and the figures are left out. A figure that this GPU does not
    have is left out alone.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        nvml: Callable[[], Any] = _pynvml,
        bus_id: Callable[[int], str] = _bus_id,
    ) -> None:
        """`nvml` gives the module pynvml or what stands in for it; `bus_id`: where CUDA's GPU of this number is."""
        self._import = nvml
        self._bus_id = bus_id
        self._asking = threading.Lock()
        self._device = ""
        self._opened_for = ""
        self._opened: tuple[Any, Any] | None = None
        self._name = ""
        self._warned = False
        self._last = self.describe()
        registry.register(self)

    def watch(self, device: str) -> None:
        """Tell of this device from now on: "cuda:0" or "tensorrt:0"; of "cpu" there is nothing to tell."""
        self._device = device if ":" in device else ""

    def describe(self) -> list[GaugeMetricFamily]:
        """The figures there may be, without asking NVML for them: there may be no device yet."""
        return [GaugeMetricFamily(name, meaning, labels=_LABELS) for name, meaning, _ in _FIGURES]

    def collect(self) -> list[GaugeMetricFamily]:
        """The figures now; those of the last time while another thread is asking."""
        if not self._asking.acquire(blocking=False):
            return self._last
        try:
            families, device = self.describe(), self._device
            if device:
                for family, value in zip(families, self._ask(device), strict=False):
                    if value is not None:
                        family.add_metric((device, self._name), value)
            self._last = families
            return families
        finally:
            self._asking.release()

    def _ask(self, device: str) -> list[float | None]:
        """A value for each figure, None where this GPU has none; nothing where it does not answer."""
        opened = self._open(device)
        if opened is None:
            return []
        nvml, gpu = opened
        values: list[float | None] = []
        for _, _, figure in _FIGURES:
            try:
                values.append(float(figure(nvml, gpu)))
            except nvml.NVMLError_NotSupported:
                values.append(None)
            except nvml.NVMLError as error:
                self._warn(device, str(error))
                return []
        return values

    def _open(self, device: str) -> tuple[Any, Any] | None:
        """NVML's functions and the GPU's handle; None where they cannot be had, which is not tried again."""
        if self._opened_for == device:
            return self._opened
        self._opened_for, self._opened = device, None
        try:
            nvml = self._import()
        except ImportError as error:
            self._warn(device, f"{error} ({_HINT})")
            return None
        try:
            nvml.nvmlInit()
            # NVML counts in the order of the bus, CUDA by speed, and only what it may see.
            gpu = nvml.nvmlDeviceGetHandleByPciBusId(self._bus_id(int(device.partition(":")[2])))
            name = nvml.nvmlDeviceGetName(gpu)
        except (nvml.NVMLError, CudaCallError, DeviceError) as error:
            self._warn(device, f"{error} ({_HINT})")
            return None
        self._opened = (nvml, gpu)
        self._name = name.decode() if isinstance(name, bytes) else str(name)
        return self._opened

    def _warn(self, device: str, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("no figures of %s in /metrics: NVML: %s", device, why)
