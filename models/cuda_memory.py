"""A GPU's memory by CUDA's own runtime library: page-locked buffers, device buffers, and streams for copies.

ONNX Runtime's Python interface has neither page-locked memory of one's own nor copies on a stream of one's own; the
library that it has loaded already has both. Through ctypes, which lets other threads run during a call.
Functions and numbers: CUDA Runtime API, sections "Memory Management" and "Stream Management".
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np

from models.errors import DeviceError
from schemas.tensors import Array

_NAMES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
_NON_BLOCKING: Final = 1
_POINTER: Final = ctypes.c_void_p
_SIGNATURES: Final = {
    "cudaSetDevice": (ctypes.c_int,),
    "cudaHostAlloc": (ctypes.POINTER(_POINTER), ctypes.c_size_t, ctypes.c_uint),
    "cudaFreeHost": (_POINTER,),
    "cudaMalloc": (ctypes.POINTER(_POINTER), ctypes.c_size_t),
    "cudaFree": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int, _POINTER),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(_POINTER), ctypes.c_uint),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaStreamDestroy": (_POINTER,),
    "cudaDeviceGetPCIBusId": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cudaRuntimeGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "cudaDriverGetVersion": (ctypes.POINTER(ctypes.c_int),),
}


class CudaCallError(RuntimeError):
    """A call of CUDA's runtime that failed, in the words that ONNX Runtime uses for it too."""


@cache
def cudart() -> Any:
    """CUDA's runtime library. Raises `DeviceError` where there is none."""
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        for function, arguments in _SIGNATURES.items():
            found = getattr(library, function)
            found.argtypes, found.restype = arguments, ctypes.c_int
        library.cudaGetErrorString.argtypes = (ctypes.c_int,)
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    raise DeviceError(f"CUDA's runtime library is missing: none of {', '.join(_NAMES)} loads")


class CudaMemory:
    """The memory of one GPU. See `models.staging.Memory`; what fails raises `CudaCallError`."""

    device_type = "cuda"

    def __init__(self, number: int = 0, library: Any = None) -> None:
        """`library`: CUDA's runtime, or what stands in for it."""
        self.device_id = number
        self._library = cudart() if library is None else library

    def open_stream(self) -> int:
        """A stream that does not wait for the default one, nor it for this."""
        return self._new("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def close_stream(self, stream: int) -> None:
        """See `Memory.close_stream`."""
        self._call("cudaStreamDestroy", stream)

    def host(self, size: int) -> Array:
        """Page-locked memory, uint8 [size]."""
        address = self._new("cudaHostAlloc", size, 0)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_host(self, buffer: Array) -> None:
        """See `Memory.free_host`. No view of it may be used again."""
        self._call("cudaFreeHost", buffer.ctypes.data)

    def device(self, size: int) -> int:
        """See `Memory.device`."""
        return self._new("cudaMalloc", size)

    def free_device(self, address: int) -> None:
        """See `Memory.free_device`."""
        self._call("cudaFree", address)

    def upload(self, address: int, source: Array, stream: int) -> None:
        """See `Memory.upload`."""
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, _TO_DEVICE, stream)

    def download(self, target: Array, address: int, stream: int) -> None:
        """See `Memory.download`."""
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """See `Memory.wait`."""
        self._call("cudaStreamSynchronize", stream)

    @property
    def pci_bus_id(self) -> str:
        """Where the GPU is, "0000:3b:00.0": NVML counts GPUs in another order than CUDA does."""
        text = ctypes.create_string_buffer(32)
        self._call("cudaDeviceGetPCIBusId", text, len(text), self.device_id)
        return text.value.decode("ascii").lower()

    @property
    def versions(self) -> dict[str, int]:
        """CUDA's versions as numbers, 13000 for 13.0: of the runtime, and the newest that the driver knows."""
        found = {}
        for name, function in (("runtime", "cudaRuntimeGetVersion"), ("driver", "cudaDriverGetVersion")):
            value = ctypes.c_int()
            self._call(function, ctypes.byref(value))
            found[name] = value.value
        return found

    def _new(self, function: str, *arguments: int) -> int:
        # Which device a thread allocates on is the thread's own setting.
        self._call("cudaSetDevice", self.device_id)
        value = _POINTER()
        self._call(function, ctypes.byref(value), *arguments)
        return int(value.value or 0)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code).decode("ascii", "replace")
            raise CudaCallError(f"CUDA failure {code}: {said} ; GPU={self.device_id} ; expr={function}")
