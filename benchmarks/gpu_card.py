"""The card a benchmark runs on: what it is, and how busy it was while something ran."""

from __future__ import annotations

import importlib
import platform
import threading
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Self

from models.cuda_memory import CudaCallError, CudaMemory
from models.errors import DeviceError

# NVML's own sample period is a sixth of a second to a second.
_EVERY: Final = 0.1
_PACKAGES: Final = ("onnxruntime-gpu", "onnxruntime", "torch", "onnx", "numpy", "nvidia-ml-py", "tensorrt-cu13")


class Card:
    """A GPU as NVML knows it, or none: a CPU has no utilisation."""

    def __init__(self, number: int | None) -> None:
        """`number`: as CUDA counts; None: no GPU. Raises `DeviceError` where NVML or the GPU cannot be had."""
        self._nvml: Any = None
        self._handle: Any = None
        if number is None:
            return
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(CudaMemory(number).pci_bus_id)
            self.cuda: dict[str, int] = CudaMemory(number).versions
        except (ImportError, CudaCallError) as error:
            raise DeviceError(f"utilisation is read by NVML: {error}") from error
        except Exception as error:
            if self._nvml is not None and isinstance(error, self._nvml.NVMLError):
                raise DeviceError(f"utilisation is read by NVML: {error}") from error
            raise

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU to tell of."""
        return self._handle is not None

    def to_json(self) -> dict[str, Any]:
        """What a figure depends on: card, driver, versions and date."""
        versions = {"python": platform.python_version()}
        for name in _PACKAGES:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                continue
        found: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions}
        if not self.is_gpu:
            return {"device": "cpu", "name": _processor(), **found}
        name = self._nvml.nvmlDeviceGetName(self._handle)
        driver = self._nvml.nvmlSystemGetDriverVersion()
        return {
            "device": "gpu",
            "name": name.decode() if isinstance(name, bytes) else name,
            "driver": driver.decode() if isinstance(driver, bytes) else driver,
            "cuda": self.cuda,
            "memory_bytes": int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total),
            **found,
        }

    def utilization(self) -> float:
        """Share of NVML's last sample period in which the GPU computed."""
        return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100


class Watch:
    """Samples a card's utilisation while it is entered. `mean` is None where there is no GPU, or nothing was seen."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._card.is_gpu:
            self._thread = threading.Thread(target=self._sample, name="utilisation", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self) -> None:
        # What NVML says first is of the time before.
        self._stop.wait(0.5)
        while not self._stop.wait(_EVERY):
            self._samples.append(self._card.utilization())

    @property
    def mean(self) -> float | None:
        """The mean utilisation."""
        return sum(self._samples) / len(self._samples) if self._samples else None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((one.partition(":")[2].strip() for one in lines if one.startswith("model name")), "")
    except OSError:
        return platform.machine()
