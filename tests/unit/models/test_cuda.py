"""What ONNX Runtime and CUDA's own library are told to do, and what is said where they cannot."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bound import Cudart, ones
from small_onnx import attention, linear
from test_execution import sequences

import models.cuda
from models.batching import BatchLimits
from models.bound_runner import BoundRunner
from models.cuda import open_on_gpu, providers, tensorrt_options
from models.cuda_memory import CudaCallError, CudaMemory, cudart
from models.device_options import DeviceOptions
from models.errors import ArtifactError, DeviceError
from models.execution import PlainRunner
from models.loading import LoadedModel
from models.registry import ModelStore
from models.runtime import runtime
from models.session import Session, signature_of
from models.signature import AxisBuckets, Signature
from models.staging import HostMemory


class Library:
    """ONNX Runtime on the CPU that says it is on a GPU. `refuse`: what it raises, by whether graphs are asked for."""

    def __init__(self, available: list[str], refuse: dict[bool, Exception] | None = None) -> None:
        self.available = available
        self.refuse = refuse or {}
        self.opened: list[Any] = []
        self.says = ""
        self.gives: list[str] | None = None

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        print(self.says)

    def InferenceSession(self, path: str, options: Any, providers: list[Any], enable_fallback: int) -> Any:  # noqa: N802
        assert enable_fallback == 0
        first = providers[0]
        graphs = "enable_cuda_graph" in first[1]
        self.opened.append(providers)
        if graphs in self.refuse:
            raise self.refuse[graphs]
        session = runtime().InferenceSession(path, options, providers=["CPUExecutionProvider"])
        gives = self.gives or [first[0]]
        return SimpleNamespace(
            get_providers=lambda: gives,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            io_binding=session.io_binding,
            run=session.run,
            run_with_iobinding=lambda binding, _: session.run_with_iobinding(binding),
        )


CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    fake = Library(list(CUDA))
    monkeypatch.setattr(models.cuda, "runtime", lambda: fake)
    return fake


def opened(path: Path, kind: str = "cuda", options: DeviceOptions | None = None, number: int = 0) -> tuple[Any, ...]:
    return open_on_gpu(
        path, signature_of(path), kind, number, options or DeviceOptions(), memory=lambda _: HostMemory()
    )


def test_the_cuda_provider_is_told_what_the_settings_say(library: Library, tmp_path: Path) -> None:
    session, runner, why = opened(linear(tmp_path / "m.onnx"), number=1, options=DeviceOptions(memory_limit=1 << 30))
    assert library.opened == [
        [
            (
                "CUDAExecutionProvider",
                {"device_id": "1", "arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": "1073741824"},
            ),
            "CPUExecutionProvider",
        ]
    ]
    assert why == "CUDA loaded on GPU 1"
    assert isinstance(runner, BoundRunner)
    assert runner.run(ones(2))["y"].ravel().tolist() == [6.0, 6.0]
    assert session.get_providers() == CUDA[:1]


def test_tensorrt_gets_its_engine_cache_and_fp16_and_falls_back_on_cuda_node_by_node(tmp_path: Path) -> None:
    options = DeviceOptions(fp16=True, engine_cache="/somewhere", memory_limit=5)
    signature = signature_of(linear(tmp_path / "m.onnx"))
    (name, told), cuda, cpu = providers("tensorrt", 2, options, signature)
    assert name == "TensorrtExecutionProvider"
    assert told == {
        "device_id": "2",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/somewhere",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/somewhere",
    }
    assert cuda[1]["gpu_mem_limit"] == "5"
    assert cpu == "CPUExecutionProvider"


def test_tensorrt_builds_one_engine_for_all_buckets_where_they_say_every_axis(tmp_path: Path) -> None:
    found = signature_of(sequences(tmp_path / "m.onnx"))
    known = Signature(found.inputs, found.outputs, axes=(AxisBuckets("seq", (4, 16, 64)),))
    options = DeviceOptions(rows=(2, 32))
    told = tensorrt_options(0, options, known)
    assert {key: told[key] for key in told if "profile" in key} == {
        "trt_profile_min_shapes": "values:2x4,mask:2x4",
        "trt_profile_opt_shapes": "values:32x64,mask:32x64",
        "trt_profile_max_shapes": "values:32x64,mask:32x64",
    }
    for one, signature in ((options, found), (DeviceOptions(), known)):
        assert not any("profile" in key for key in tensorrt_options(0, one, signature))


def test_a_manifests_buckets_reach_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DeviceOptions] = []

    def opened(_path: Path, _signature: Signature, _device: str, _threads: int, options: DeviceOptions) -> Session:
        seen.append(options)
        raise DeviceError("there is none")

    monkeypatch.setattr(Session, "open", opened)
    store = ModelStore(tmp_path / "store")
    path = linear(tmp_path / "m.onnx")
    store.add_onnx("m", "1", path, signature_of(path), BatchLimits(buckets=(1, 8)))
    store.add_onnx("m", "2", path, signature_of(path))
    for version in ("1", "2"):
        with pytest.raises(DeviceError):
            LoadedModel.load(store, "m", version, "tensorrt", options=DeviceOptions(fp16=True))
    assert seen == [DeviceOptions(fp16=True, rows=(1, 8)), DeviceOptions(fp16=True)]


def test_tensorrt_makes_the_folder_of_its_engines(library: Library, tmp_path: Path) -> None:
    library.available.insert(0, "TensorrtExecutionProvider")
    cache = tmp_path / "a" / "b"
    _, _, why = opened(linear(tmp_path / "m.onnx"), "tensorrt", DeviceOptions(engine_cache=str(cache)))
    assert cache.is_dir()
    assert why == "TensorRT loaded on GPU 0"
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"TensorRT keeps its engines in .*file: File exists"):
        opened(tmp_path / "m.onnx", "tensorrt", DeviceOptions(engine_cache=str(tmp_path / "file")))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cuda", r"no CUDA \(the extra `gpu` in place of `cpu` brings it\)"),
        ("tensorrt", r"no TensorRT \(another build of it has\)"),
    ],
)
def test_what_this_onnx_runtime_lacks_is_said(library: Library, tmp_path: Path, kind: str, message: str) -> None:
    library.available.remove(CUDA[0])
    with pytest.raises(DeviceError, match=message):
        opened(linear(tmp_path / "m.onnx"), kind)


def test_a_provider_that_gave_up_in_silence_is_noticed(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library.gives, library.says = ["CPUExecutionProvider"], "Failed to load libcudnn.so.9"
    with pytest.raises(DeviceError, match=r"CUDA did not load: Failed to load libcudnn\.so\.9"):
        opened(linear(tmp_path / "m.onnx"))
    assert capsys.readouterr().out == ""


def test_a_model_that_cannot_be_captured_is_opened_without_graphs_and_said(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library.refuse = {True: RuntimeError("This session cannot use the graph capture feature: control flow nodes")}
    path = linear(tmp_path / "m.onnx")
    with caplog.at_level(logging.WARNING):
        _, runner, _ = opened(path, options=DeviceOptions(graphs=True))
    assert ["enable_cuda_graph" in one[0][1] for one in library.opened] == [True, False]
    assert "no CUDA graphs, this model runs without: CUDA failed: This session cannot use the graph" in caplog.text
    runner.prepare(ones(2))
    assert runner.graphs == []


def test_a_broken_file_is_the_files_fault_also_where_graphs_are_asked_for(library: Library, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    signature = signature_of(path)
    path.write_bytes(b"no model" * 9)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        open_on_gpu(path, signature, "cuda", 0, DeviceOptions(graphs=True), memory=lambda _: HostMemory())
    assert len(library.opened) == 1


def test_text_is_left_to_onnx_runtime_and_captured_by_nobody(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, runner, _ = opened(attention(tmp_path / "m.onnx"), options=DeviceOptions(graphs=True))
    assert isinstance(runner, PlainRunner)
    assert "no CUDA graphs: text cannot lie in a GPU's memory" in caplog.text
    assert "enable_cuda_graph" not in library.opened[0][0][1]


def test_auto_goes_on_without_a_gpu_and_cuda_does_not(library: Library, tmp_path: Path) -> None:
    library.refuse = {False: RuntimeError("CUDA failure 35: CUDA driver version is insufficient")}
    path = linear(tmp_path / "m.onnx")
    session = Session.open(path, signature_of(path), "auto")
    assert session.device == "cpu"
    assert session.why.startswith("cpu, because CUDA failed: CUDA failure 35")
    for device in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=f"device {device} was asked for, and cannot be had: CUDA failed"):
            Session.open(path, signature_of(path), device)


def test_a_machine_without_cudas_library_says_so(tmp_path: Path, library: Library) -> None:
    try:
        cudart()
    except DeviceError as error:
        assert "libcudart.so.13" in str(error)  # noqa: PT017 - there may be one
        path = linear(tmp_path / "m.onnx")
        assert "CUDA's runtime library is missing" in Session.open(path, signature_of(path), "auto").why
    else:
        pytest.skip("CUDA's library is here")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="runs must be at least 1"):
        DeviceOptions(runs=0)
    with pytest.raises(ValueError, match="memory_limit must be at least 1 byte"):
        DeviceOptions(memory_limit=0)


def test_a_gpus_memory_is_copied_to_and_from_and_given_back() -> None:
    library = Cudart()
    memory = CudaMemory(0, library)
    stream, host, address = memory.open_stream(), memory.host(16), memory.device(16)
    host[:] = np.arange(16)
    memory.upload(address, host, stream)
    host[:] = 0
    memory.download(host[:8], address, stream)
    memory.wait(stream)
    assert host.tolist() == [*range(8), *[0] * 8]
    memory.free_host(host)
    memory.free_device(address)
    memory.close_stream(stream)
    assert library.held == 0
    assert memory.pci_bus_id == "0000:3b:00.0"
    assert memory.versions == {"runtime": 13000, "driver": 13010}


def test_a_call_of_cuda_that_fails_says_which_and_why() -> None:
    library = Cudart()
    library.fail["cudaMalloc"] = 2
    with pytest.raises(CudaCallError, match=r"^CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc$"):
        CudaMemory(0, library).device(8)
