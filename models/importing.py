"""Makes a version's manifest of what somebody has: an ONNX file, a folder of ours, an MLflow model, or an archive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

from models.batching import DEFAULT_LIMITS as DEFAULT_BATCHING
from models.batching import BatchLimits
from models.errors import ArtifactError, shown
from models.folder import inside, verified
from models.manifest import MANIFEST, RELEASED, FileEntry, Manifest, check_name
from models.session import signature_of
from models.signature import Signature
from models.unpacking import DEFAULT_LIMITS, Limits, is_archive, unpack

MLMODEL: Final = "MLmodel"
# What MLflow writes beside a model for those who run it in Python.
_MLFLOW_FILES: Final = frozenset(
    {
        MLMODEL,
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "input_example.json",
        "serving_input_example.json",
        "registered_model_meta",
        "metadata",
    }
)


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a version besides its files; None and {} leave it to what is imported."""

    signature: Signature | None = None
    batching: BatchLimits | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    stage: str = RELEASED
    fallback: str = ""
    last_answer_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """A folder with a version's files, and the version's manifest."""

    folder: Path
    manifest: Manifest


@contextmanager
def source_of(
    path: Path, name: str, version: str, about: About | None = None, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Source]:
    """The files at `path` as version `version` of `name`; what an archive holds is there until the block ends.

    Raises `ArtifactError` where there is nothing to import, or it does not load.
    """
    check_name("name", name)
    check_name("version", version)
    known = about or About()
    if path.is_dir():
        yield _folder(path, name, version, known)
    elif not path.is_file():
        raise ArtifactError(f"{path}: there is no such file or folder")
    elif is_archive(path):
        with TemporaryDirectory(prefix="penstock-unpacked-") as scratch:
            unpack(path, Path(scratch), limits)
            try:
                found = _folder(_only_folder(Path(scratch)), name, version, known)
            except ArtifactError as error:
                raise ArtifactError(str(error).replace(scratch, str(path))) from error
            yield found
    else:
        parts = sorted(one.name for one in path.parent.iterdir() if one.name.startswith(path.name) and one.is_file())
        yield _made(path.parent, path.name, parts, name, version, known)


def _folder(folder: Path, name: str, version: str, about: About) -> Source:
    if (folder / MANIFEST).exists():
        manifest = Manifest.read(inside(folder, MANIFEST))
        verified(folder, manifest)
        changes: dict[str, Any] = {
            key: getattr(about, key)
            for key in ("signature", "batching", "metrics", "profile", "lineage", "fallback", "last_answer_seconds")
            if getattr(about, key)
        }
        stage = manifest.stage if about.stage == RELEASED else about.stage
        return Source(folder, replace(manifest, name=name, version=version, stage=stage, **changes))
    if (folder / MLMODEL).exists():
        return _mlflow(folder, name, version, about)
    files = _files(folder)
    models = [one for one in files if one.endswith(".onnx")]
    if len(models) != 1:
        there = ", ".join(models) or "none"
        raise ArtifactError(f"{folder}: expected {MANIFEST}, {MLMODEL} or one .onnx file; .onnx files: {there}")
    return _made(folder, models[0], files, name, version, about)


def _mlflow(folder: Path, name: str, version: str, about: About) -> Source:
    """A folder as MLflow's onnx flavor writes it: https://mlflow.org/docs/latest/ml/model/ (the MLmodel format)."""
    import yaml

    where = f"{folder / MLMODEL}"
    try:
        document = yaml.safe_load(inside(folder, MLMODEL).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactError(f"{where}: it cannot be read as YAML: {error}") from None
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict) or not isinstance(flavors.get("onnx"), dict):
        there = ", ".join(map(str, flavors)) if isinstance(flavors, dict) and flavors else "none"
        raise ArtifactError(
            f"{where}: it has no flavor onnx, which is all that is imported; flavors: {there}. "
            "Log the model with mlflow.onnx.log_model"
        )
    data = flavors["onnx"].get("data")
    if not isinstance(data, str) or not data:
        raise ArtifactError(f"{where}: flavors.onnx.data: expected the model's path, got {shown(data)}")
    if "\\" in data or any(part in ("", ".", "..") for part in data.split("/")):
        raise ArtifactError(f"{where}: flavors.onnx.data: {shown(data)} is not a path inside the folder")
    if not inside(folder, data).is_file():
        raise ArtifactError(f"{where}: flavors.onnx.data names {data}, but there is no such file")
    origin = {
        key: document[key]
        for key in ("run_id", "model_uuid", "model_id", "mlflow_version", "utc_time_created", "artifact_path")
        if document.get(key) is not None
    }
    if flavors["onnx"].get("onnx_version") is not None:
        origin["onnx_version"] = flavors["onnx"]["onnx_version"]
    # A date in YAML is no JSON.
    lineage = {"mlflow": json.loads(json.dumps(origin, default=str)), **about.lineage}
    files = [one for one in _files(folder) if one.split("/")[0] not in _MLFLOW_FILES]
    return _made(folder, data, files, name, version, replace(about, lineage=lineage))


def _made(folder: Path, entrypoint: str, files: list[str], name: str, version: str, about: About) -> Source:
    """A manifest for files that came without one. The ONNX file is opened also where its signature is given."""
    for one in files:
        inside(folder, one)
    declared = signature_of(folder / entrypoint)
    manifest = Manifest(
        name,
        version,
        tuple(FileEntry.of(folder, one) for one in files),
        entrypoint,
        about.signature or declared,
        about.batching or DEFAULT_BATCHING,
        about.metrics,
        about.profile,
        about.lineage,
        about.stage,
        about.fallback,
        about.last_answer_seconds,
    )
    return Source(folder, manifest)


def _files(folder: Path) -> list[str]:
    """Every file below, by its path. Raises `ArtifactError` for a link to a folder, whose files nobody listed."""
    found = []
    for one in sorted(folder.rglob("*")):
        path = one.relative_to(folder).as_posix()
        if one.is_dir():
            if one.is_symlink():
                raise ArtifactError(f"{one}: it is a link to a folder; copy what it leads to")
        else:
            found.append(str(PurePosixPath(path)))
    return found


def _only_folder(folder: Path) -> Path:
    """Where an archive holds one folder and nothing else, that folder."""
    inner = list(folder.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else folder
