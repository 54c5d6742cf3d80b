"""Model versions in a plain folder, each with its files beside its manifest, as they are kept in a repository.

The registry (`models.registry`) reads such a folder too. What it adds itself goes where content is shared.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from models.batching import DEFAULT_LIMITS, BatchLimits
from models.errors import ArtifactError, ManifestError, UnknownModelError, shown
from models.manifest import MANIFEST, FileEntry, Manifest, check_name, digest_of, is_name
from models.signature import Signature

__all__ = ["ModelStore", "inside", "natural", "refuse_unlisted", "sync", "verified", "verify_file"]

_DIGITS: Final = re.compile(r"([0-9]+)")


def natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which 10 comes after 9, and 1.10 after 1.9."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in _DIGITS.split(version))


class ModelStore:
    """Model versions under `<root>/<name>/<version>/`: `manifest.json` and the files it lists, nothing else.

    Processes may share a store. A root that does not exist is an empty store; `add` creates it.
    """

    is_remote: Final = False

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def names(self) -> list[str]:
        """Models that have a version, sorted."""
        return sorted(name for name in _folders(self.root) if self._versions(name))

    def versions(self, name: str) -> list[str]:
        """A model's versions in natural order, the newest last. Raises `UnknownModelError`."""
        found = self._versions(name)
        if not found:
            there = ", ".join(self.names()) or "none"
            raise UnknownModelError(f"there is no model {shown(name)} in the store {self.root}; there are: {there}")
        return found

    def default_version(self, name: str) -> str:
        """The newest version. Raises `UnknownModelError`."""
        return self.versions(name)[-1]

    def manifest(self, name: str, version: str) -> Manifest:
        """What a version says about itself. Raises `UnknownModelError`, `ManifestError`."""
        return self._open(name, version)[1]

    def artifact(self, name: str, version: str) -> Path:
        """The path of a version's ONNX file, after size and SHA-256 of all its files were found right.

        Raises `ArtifactError` for a file that is missing, changed, not listed, or a link out of the version's folder.
        """
        folder, manifest = self._open(name, version)
        return verified(folder, manifest)

    def release(self, name: str, version: str) -> None:
        """Nothing to do: the files stay where they are."""

    def add(self, folder: str | Path) -> Manifest:
        """Copy a folder with its manifest and files into the store.

        Of several who add the same version one succeeds. Raises `ArtifactError` where the files are not what the
        manifest says, or where the version is there.
        """
        source = Path(folder)
        manifest = Manifest.read(source / MANIFEST)
        self._refuse_existing(manifest.name, manifest.version)
        with self._staging() as staging:
            for entry in manifest.files:
                _copy(inside(source, entry.path), staging / entry.path)
            manifest.write(staging / MANIFEST)
            self._publish(staging, manifest)
        return manifest

    def add_onnx(
        self,
        name: str,
        version: str,
        path: str | Path,
        signature: Signature | None = None,
        batching: BatchLimits | None = None,
        metrics: Mapping[str, Any] | None = None,
        profile: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Add any ONNX file, with the signature it declares itself unless one is given.

        External data comes along where it lies beside the file under a name that starts with the file's, such as
        `x.onnx.data`. Raises `ArtifactError` where it does not load, cannot be batched, or the version is there.
        """
        from models.session import signature_of

        check_name("name", name)
        check_name("version", version)
        self._refuse_existing(name, version)
        source = Path(path)
        if not source.is_file():
            raise ArtifactError(f"{source}: there is no such ONNX file")
        with self._staging() as staging:
            parts = sorted(one.name for one in source.parent.iterdir() if one.name.startswith(source.name))
            for part in parts:
                _copy(source.parent / part, staging / part)
            # Also with a signature given: a file that does not load must not enter the store.
            staged = staging / source.name
            try:
                declared = signature_of(staged)
            except ArtifactError as error:
                # The copy means nothing to who asked.
                raise ArtifactError(str(error).replace(str(staged), str(source))) from error
            manifest = Manifest(
                name,
                version,
                tuple(FileEntry.of(staging, part) for part in parts),
                source.name,
                signature or declared,
                batching or DEFAULT_LIMITS,
                dict(metrics or {}),
                dict(profile or {}),
                dict(lineage or {}),
            )
            manifest.write(staging / MANIFEST)
            self._publish(staging, manifest)
        return manifest

    def _versions(self, name: str) -> list[str]:
        if not is_name(name):
            return []
        folder = self.root / name
        return sorted((one for one in _folders(folder) if (folder / one / MANIFEST).exists()), key=natural)

    def _open(self, name: str, version: str) -> tuple[Path, Manifest]:
        versions = self.versions(name)
        if version not in versions:
            there = ", ".join(versions)
            raise UnknownModelError(f"model {name!r} has no version {shown(version)}; there are: {there}")
        folder = inside(self.root, f"{name}/{version}")
        manifest = Manifest.read(inside(folder, MANIFEST))
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(
                f"{folder / MANIFEST}: it is of {manifest.name} {manifest.version}, not {name} {version}"
            )
        return folder, manifest

    def _refuse_existing(self, name: str, version: str) -> None:
        if (self.root / name / version).exists():
            raise ArtifactError(
                f"model {name!r} has a version {version!r} already; a version never changes, so give this one another"
            )

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        self.root.mkdir(parents=True, exist_ok=True)
        # Inside the root, so that the last step is a rename within one file system; the dot hides it from `names`.
        staging = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.root))
        staging.chmod(0o755)
        try:
            yield staging
        except OSError as error:
            raise ArtifactError(f"adding to the store {self.root} failed: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish(self, staging: Path, manifest: Manifest) -> None:
        verified(staging, manifest)
        for one in staging.rglob("*"):
            sync(one)
        target = self.root / manifest.name / manifest.version
        target.parent.mkdir(exist_ok=True)
        try:
            staging.rename(target)
        except OSError:
            self._refuse_existing(manifest.name, manifest.version)
            raise
        sync(target.parent)


def verified(folder: Path, manifest: Manifest) -> Path:
    """The entrypoint's path, after every file was found to be what the manifest says. Raises `ArtifactError`."""
    for entry in manifest.files:
        verify_file(folder, manifest, entry)
    refuse_unlisted(folder, manifest)
    return folder / manifest.entrypoint


def verify_file(folder: Path, manifest: Manifest, entry: FileEntry) -> None:
    """Compare one file with its entry. Raises `ArtifactError`."""
    what = f"model {manifest.name} {manifest.version}"
    path = inside(folder, entry.path)
    if not path.is_file():
        raise ArtifactError(f"{what}: its file {entry.path} is missing from {folder}")
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise ArtifactError(f"{what}: {entry.path} should have {entry.size} bytes, it has {size}; add it again")
        digest = digest_of(path)[0]
    except OSError as error:
        raise ArtifactError(f"{what}: {entry.path} cannot be read: {error.strerror}") from None
    if digest != entry.sha256:
        raise ArtifactError(f"{what}: {entry.path} should have SHA-256 {entry.sha256}, it has {digest}; add it again")


def refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Raise `ArtifactError` where the folder holds a file that the manifest does not list."""
    listed = {entry.path for entry in manifest.files} | {MANIFEST}
    for base, folders, files in os.walk(folder):
        links = [one for one in folders if (Path(base) / one).is_symlink()]
        for one in (*files, *links):
            # ONNX Runtime would read external data from a file that no checksum covers.
            extra = (Path(base) / one).relative_to(folder).as_posix()
            if extra not in listed:
                raise ArtifactError(
                    f"model {manifest.name} {manifest.version}: {folder} holds {extra}, "
                    "which its manifest does not list"
                )


def _folders(parent: Path) -> list[str]:
    try:
        return [one.name for one in parent.iterdir() if is_name(one.name) and one.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def inside(folder: Path, path: str) -> Path:
    """`folder/path`, unless a link leads it out of the folder. Raises `ArtifactError`."""
    found = folder / path
    try:
        within = found.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{found}: it cannot be resolved: {error}") from None
    if not within:
        raise ArtifactError(f"{found}: it is a link out of {folder}")
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise ArtifactError(f"{source}: the manifest lists it, but there is no such file") from None


def sync(path: Path) -> None:
    """Put a file or folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
