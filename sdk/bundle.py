"""The bundle: the folder that ships, its schema and its integrity.

A bundle holds ``bundle.json``, one ONNX file per purifier and classifier (and precision), the labels, the
torch twin's weights, golden outputs for a self-test, and a model card.  ``Bundle.open`` decodes and
validates ``bundle.json``, keeps every path inside the folder, and checks each listed file's sha256 before
anything is loaded.  ``write_manifest`` is the other direction, used by ``export``.  Who vouches for a bundle
is ``sdk.signing``'s matter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from sdk.errors import BundleError

SCHEMA = 1
MANIFEST = "bundle.json"
SIGNATURE = "bundle.json.sig"
Precision = Literal["fp32", "fp16", "int8"]


class File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file of the bundle: its path relative to the folder, and its sha256 in lower-case hex."""

    file: str
    sha256: str


class RandomInput(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An engine input that the host draws from the CSPRNG: a uniform subset, ``take`` of ``size`` positions.

    ``encoding`` says how the subset enters the engine: ``mask``, a 0/1 vector of length ``size``, or
    ``indices``, the ``take`` chosen positions in increasing order.
    """

    name: str
    kind: Literal["subset"]
    size: int
    take: int
    encoding: Literal["mask", "indices"]
    dtype: Literal["float32", "int64"]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.take <= self.size:
            raise ValueError(
                f"random input {self.name!r}: expected 1 <= take <= size = {self.size}, got {self.take}"
            )
        width = self.size if self.encoding == "mask" else self.take
        if self.shape != (1, width):
            raise ValueError(
                f"random input {self.name!r}: expected shape [1, {width}], got {list(self.shape)}"
            )


class Engine(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One purifier or classifier: its id and its ONNX file per precision."""

    id: str
    onnx: dict[Precision, File]
    random_inputs: tuple[RandomInput, ...] = ()

    def __post_init__(self) -> None:
        if "fp32" not in self.onnx:
            raise ValueError(f"engine {self.id!r}: expected an fp32 ONNX file, got {sorted(self.onnx)}")
        names = ["image", *(spec.name for spec in self.random_inputs)]
        if len(set(names)) != len(names):
            raise ValueError(f"engine {self.id!r}: expected distinct input names, got {names}")


class Image(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The engines' image size in pixels, and how a frame of any size becomes one."""

    height: int
    width: int
    resize: Literal["area"] = "area"
    fit: Literal["center-crop"] = "center-crop"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image: expected a height and width >= 1, got {self.height} x {self.width}")


class Twin(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The torch model with the bundle's weights: a safetensors file and the config's model section."""

    weights: File
    config: dict[str, Any]


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """``bundle.json`` as it is on disk; ``robustness`` is what ``edge-train evaluate --gate`` holds."""

    schema: int
    name: str
    family: Literal["ren", "maep"]
    labels: File
    image: Image
    purifiers: tuple[Engine, ...]
    classifiers: tuple[Engine, ...]
    golden: File
    twin: Twin | None = None
    card: File | None = None
    robustness: File | None = None
    measured: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = {}

    def __post_init__(self) -> None:
        for role, engines in (("purifiers", self.purifiers), ("classifiers", self.classifiers)):
            if not engines:
                raise ValueError(f"{role}: expected at least one, got none")
            ids = [engine.id for engine in engines]
            if len(set(ids)) != len(ids):
                raise ValueError(f"{role}: expected distinct ids, got {ids}")
        for engine in self.classifiers:
            if engine.random_inputs:
                raise ValueError(
                    f"classifier {engine.id!r}: expected no random inputs, a classifier takes none"
                )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that every engine has, the most exact first."""
        engines = (*self.purifiers, *self.classifiers)
        known: tuple[Precision, ...] = get_args(Precision)
        return tuple(precision for precision in known if all(precision in engine.onnx for engine in engines))

    def files(self) -> Iterator[File]:
        """Every file the manifest names."""
        yield self.labels
        yield self.golden
        if self.twin is not None:
            yield self.twin.weights
        if self.card is not None:
            yield self.card
        if self.robustness is not None:
            yield self.robustness
        for engine in (*self.purifiers, *self.classifiers):
            yield from engine.onnx.values()


class Bundle:
    """A bundle on disk whose manifest has been validated and whose files have been verified.

    Attributes:
        folder: the bundle's folder, absolute.
        manifest: the decoded ``bundle.json``.
        labels: the class names, in logit order.
        digest: sha256 of ``bundle.json``; it names the bundle in caches, since it covers every file's hash.
        signed_by: the fingerprint of the key whose signature was required and is there; None if none was.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        labels: tuple[str, ...],
        digest: str,
        signed_by: str | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.labels = labels
        self.digest = digest
        self.signed_by = signed_by

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, public_key: str | os.PathLike[str] | None = None
    ) -> Bundle:
        """Read and verify the bundle in ``folder``.

        Args:
            folder: where it lies.
            public_key: PEM file of the Ed25519 key that must have signed it; None asks for no signature.

        Raises:
            UsageError: ``public_key`` is no such file.
            BundleError: no bundle there, unsigned or signed by another key, unknown schema, bad field, path
                outside the folder, missing or changed file.
        """
        root = Path(folder).absolute()
        raw = _read_manifest(root)
        signed_by = None
        if public_key is not None:  # before anything that an attacker may have written is decoded
            from sdk.signing import verify

            signed_by = verify(root, raw, public_key)
        manifest = _decode(raw, root / MANIFEST)
        for file in manifest.files():
            _verify(root, file)
        labels = _read_labels(root / manifest.labels.file)
        return cls(root, manifest, labels, hashlib.sha256(raw).hexdigest(), signed_by)

    @property
    def has_signature(self) -> bool:
        """Whether a signature lies in the folder; only ``open`` with a key says whether it is right."""
        return (self.folder / SIGNATURE).exists()

    def path(self, file: File) -> Path:
        """Where a file of the manifest lies on disk."""
        return self.folder / file.file


def default_bundle() -> Path:
    """The bundle that ships inside the package, or ``$EDGE_PURIFY_BUNDLE`` where that is set."""
    chosen = os.environ.get("EDGE_PURIFY_BUNDLE")
    return Path(chosen) if chosen else Path(__file__).parent / "bundles" / "ren-cifar10-edge"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``bundle.json`` atomically, as indented JSON; a signature of the one before is removed first."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    part = folder / (MANIFEST + ".part")
    try:
        part.write_bytes(text + b"\n")
        (folder / SIGNATURE).unlink(missing_ok=True)
        part.replace(folder / MANIFEST)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Lower-case hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(root: Path) -> bytes:
    path = root / MANIFEST
    try:
        return path.read_bytes()
    except FileNotFoundError:
        what = f"no {MANIFEST} in it" if root.is_dir() else "no such folder"
        raise BundleError(
            f"bundle {root}: {what}; give the folder that 'edge-export bundle' wrote, or leave --bundle out"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BundleError(f"bundle {root}: {MANIFEST} can't be read: {error}") from None


class _Header(msgspec.Struct):
    schema: int


def _decode(raw: bytes, path: Path) -> Manifest:
    try:
        schema = msgspec.json.decode(raw, type=_Header).schema
        if schema == SCHEMA:
            return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; export the bundle anew") from None
    raise BundleError(
        f"{path}: expected schema {SCHEMA}, got {schema}; "
        + ("update edge-purify" if schema > SCHEMA else "export the bundle anew with this version")
    )


def _verify(root: Path, file: File) -> None:
    path = root / file.file
    try:
        inside = not Path(file.file).is_absolute() and path.resolve().is_relative_to(root.resolve())
        found = sha256_of(path) if inside and path.is_file() else None
    except (OSError, RuntimeError, ValueError) as error:  # unreadable, a loop of links, a NUL in the name
        raise BundleError(
            f"bundle {root}: {file.file!r} can't be read: {error}; copy the bundle again"
        ) from None
    if not inside:
        raise BundleError(
            f"bundle {root}: path {file.file!r} leads outside the folder; don't use this bundle"
        )
    if found is None:
        raise BundleError(f"bundle {root}: {file.file!r} is missing; copy the bundle again, whole")
    if found != file.sha256:
        raise BundleError(
            f"bundle {root}: {file.file} is damaged or changed: expected sha256 {file.sha256[:12]}…, "
            f"got {found[:12]}…; copy the bundle again, whole"
        )


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise BundleError(f"{path}: expected UTF-8 text, one label a line") from None
    if not labels or not all(labels):
        raise BundleError(f"{path}: expected one label a line and no empty line")
    return labels
