"""A torch module comes out as a file that answers as it does, for any number of rows, or does not come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import ArtifactError
from models.importing import source_of
from models.loading import LoadedModel
from models.registry import Registry

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.train

from models.export import export_onnx  # noqa: E402

RNG = np.random.default_rng(11)


class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Numbers and token ids [rows, seq] to a score and a vector a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.layer = torch.nn.Linear(8 + 3, 4)

    def forward(self, numbers: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vector = self.layer(torch.cat([numbers, self.embedding(ids).mean(dim=1)], dim=1))
        return torch.sigmoid(vector.sum(dim=1)), vector


def test_an_exported_module_answers_as_torch_does_for_any_rows_and_lengths(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Encoder()
    samples = {
        "numbers": RNG.normal(size=(4, 3)).astype(np.float32),
        "ids": RNG.integers(0, 20, (4, 6)).astype(np.int64),
    }
    path = tmp_path / "encoder.onnx"
    worst = export_onnx(module, samples, path, outputs=["score", "vector"], axes={"ids": {1: "seq"}})
    assert 0 <= worst < 1e-5
    assert [one.name for one in tmp_path.iterdir()] == ["encoder.onnx"]
    assert str(Path.home()).encode() not in path.read_bytes()
    registry = Registry(tmp_path / "store", tmp_path / "cache")
    with source_of(path, "encoder", "1") as source:
        manifest = registry.add(source.folder, source.manifest)
    assert [list(one.shape) for one in manifest.signature.inputs] == [["rows", 3], ["rows", "seq"]]
    model = LoadedModel.load(registry, "encoder", "1", "cpu")
    inputs = {"numbers": np.zeros((9, 3), np.float32), "ids": np.full((9, 2), 7)}
    with torch.no_grad():
        expected = module(torch.zeros(9, 3), torch.full((9, 2), 7))[0].numpy()
    assert np.allclose(model.run_merged(inputs, 9)["score"], expected, atol=1e-6)


class Drops(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Answers at random: no file can agree with it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1) + torch.rand(x.shape[0])


def test_a_module_that_the_file_does_not_agree_with_leaves_no_file(tmp_path: Path) -> None:
    samples = {"x": RNG.normal(size=(3, 2)).astype(np.float32)}
    with pytest.raises(ArtifactError, match=r"output 'y' of 3 rows differs by 0\.\d+ between ONNX Runtime and torch"):
        export_onnx(Drops(), samples, tmp_path / "m.onnx", outputs=["y"])
    with pytest.raises(ArtifactError, match="expected arrays of one number of rows, 2 or more"):
        export_onnx(Drops(), {"x": samples["x"][:1]}, tmp_path / "m.onnx", outputs=["y"])
    assert list(tmp_path.iterdir()) == []
