"""Open a bundle, read its files and verify them against the hashes in ``bundle.json``; write a manifest.

``Bundle.open`` decodes and validates ``bundle.json``, keeps every path inside the folder, and checks each
listed file's sha256 before anything is loaded. ``Bundle.read`` hashes the bytes that it returns: a file
that is replaced after ``open`` is refused. Signatures are handled in ``sdk.bundle.signature``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sdk.bundle._external_data import NotOnnx, has_external_data
from sdk.bundle._requirements import Requirements
from sdk.bundle.coverage import CoveredFile, coverage, lies_inside
from sdk.bundle.manifest import MANIFEST, SCHEMA, SIGNATURE, File, Manifest
from sdk.bundle.regular import chunks_of, read_regular
from sdk.errors import BundleError
from sdk.files import replacing, write_atomically

MAX_MANIFEST_BYTES = 16 << 20
MAX_LABELS_BYTES = 16 << 20
MAX_FILE_BYTES = (2 << 30) - 1  # a protobuf message, hence an ONNX file, can't be larger


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
        cls,
        folder: str | os.PathLike[str],
        *,
        public_key: str | os.PathLike[str] | None = None,
        min_version: int | None = None,
        purpose: str | None = None,
        remember_version: bool = False,
    ) -> Bundle:
        """Read and verify the bundle in ``folder``.

        Args:
            folder: where it lies.
            public_key: PEM file of the Ed25519 key that must have signed it; None asks for no signature.
            min_version: the lowest version that the signed manifest may have.
            purpose: what the signed manifest must name as its purpose, in exactly this spelling.
            remember_version: refuse a lower version than the highest that this user has opened with this
                key and purpose, and remember the one that is opened.

        Raises:
            UsageError: ``public_key`` is no such file, or something is asked of a bundle that needs it.
            BundleError: no bundle there, unsigned or signed by another key, too old or for another purpose,
                unknown schema, bad field, path outside the folder, missing or changed file.
        """
        required = Requirements(min_version, purpose, remember_version)
        required.check(has_key=public_key is not None)
        root = Path(folder).absolute()
        raw = _read_manifest(root)
        signed_by = None
        if public_key is not None:  # before anything that an attacker may have written is decoded
            from sdk.bundle.signature import verify  # it needs the extra [signing]

            signed_by = verify(root, raw, public_key)
        manifest = _decode(raw, root / MANIFEST)
        if signed_by is not None:
            required.hold(root, manifest, signed_by)
        for file in dict.fromkeys(manifest.files()):
            if file != manifest.labels:
                _verify(root, file)
        labels = _labels(root / manifest.labels.file, _read(root, manifest.labels, MAX_LABELS_BYTES))
        if signed_by is not None:  # only now: a damaged copy must not bar the version before
            required.remember(root, manifest, signed_by)
        return cls(root, manifest, labels, hashlib.sha256(raw).hexdigest(), signed_by)

    @property
    def has_signature(self) -> bool:
        """Whether a signature lies in the folder; only ``open`` with a key says whether it is right."""
        return (self.folder / SIGNATURE).exists()

    def read(self, file: File) -> bytes:
        """The bytes of a file of the manifest, read once from disk and verified by the sha256 of these bytes.

        Whatever runs or is trusted is made from them: a path could lead to another file by then.

        Raises:
            BundleError: the file is missing, can't be read, or has another sha256 than the manifest says; or
                it is an engine whose weights lie in other files, which no hash covers.
        """
        content = _read(self.folder, file)
        if file in self.manifest.graphs():
            _refuse_external_data(self.folder, file, content)
        return content

    def listed(self, path: str) -> File | None:
        """The entry of a built engine or its sidecar in the manifest, by its path inside the folder."""
        return next((file for file in self.manifest.plans if file.file == path), None)

    def coverage(self) -> list[CoveredFile]:
        """Every file in the folder, by path, and whether the manifest's hashes cover it.

        Files that the manifest lists and that are missing are among them. Every file is read.
        """
        return coverage(self.folder, (*self.manifest.files(), *self.manifest.plans))

    def path(self, file: File) -> Path:
        """Where a file of the manifest lies on disk, for messages; its content is had by ``read``."""
        return self.folder / file.file


def default_bundle() -> Path:
    """The bundle that ships inside the package, or ``$EDGE_PURIFY_BUNDLE`` where that is set."""
    chosen = os.environ.get("EDGE_PURIFY_BUNDLE")
    return Path(chosen) if chosen else Path(__file__).parents[1] / "bundles" / "ren-cifar10-edge"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``bundle.json`` atomically, as indented JSON; a signature of the one before is removed first."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with replacing(folder / MANIFEST, inside=folder) as stream:
        stream.write(text + b"\n")
        stream.flush()
        (folder / SIGNATURE).unlink(missing_ok=True)


def write_file(folder: Path, name: str, content: bytes) -> File:
    """Write a file of the bundle in ``folder`` atomically; its entry has the sha256 of these very bytes.

    No link in the folder leads the write outside: a bundle's folder may be a stranger's.

    Raises:
        OSError: it can't be written.
    """
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content, inside=folder)
    return File(name, hashlib.sha256(content).hexdigest())


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
        return read_regular(path, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        what = f"no {MANIFEST} in it" if root.is_dir() else "no such folder"
        raise BundleError(
            f"bundle {root}: {what}",
            hint="give the folder that 'edge-export bundle' wrote, or leave --bundle out",
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
        raise BundleError(f"{path}: {error}", hint="export the bundle again") from None
    raise BundleError(
        f"{path}: expected schema {SCHEMA}, got {schema}",
        hint="update edge-purify" if schema > SCHEMA else "export the bundle again with this version",
    )


def _verify(root: Path, file: File) -> None:
    """Check a file's sha256 in constant memory; only what ``read`` returns later is used."""
    digest = hashlib.sha256()
    for chunk in _chunks(root, file, MAX_FILE_BYTES):
        digest.update(chunk)
    _check_digest(root, file, digest.hexdigest())


def _read(root: Path, file: File, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    content = b"".join(_chunks(root, file, max_bytes))
    _check_digest(root, file, hashlib.sha256(content).hexdigest())
    return content


def _chunks(root: Path, file: File, max_bytes: int) -> Iterator[bytes]:
    """A listed file's bytes, piece by piece; every failure is a BundleError."""
    path = root / file.file
    try:
        if not lies_inside(root, file.file):
            raise BundleError(
                f"bundle {root}: path {file.file!r} leads outside the folder", hint="don't use this bundle"
            )
        yield from chunks_of(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise BundleError(
            f"bundle {root}: {file.file!r} is missing", hint="copy the bundle again, whole"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:  # unreadable, a loop of links, a NUL in the name
        raise BundleError(
            f"bundle {root}: {file.file!r} can't be read: {error}", hint="copy the bundle again"
        ) from None


def _refuse_external_data(root: Path, file: File, content: bytes) -> None:
    try:
        is_external = has_external_data(content)
    except NotOnnx as error:
        raise BundleError(
            f"bundle {root}: {file.file} is not an ONNX file: {error}", hint="export the bundle again"
        ) from None
    if is_external:
        raise BundleError(
            f"bundle {root}: {file.file} keeps weights in other files, which no hash covers",
            hint="don't use this bundle; export it again with the weights inside",
        )


def _check_digest(root: Path, file: File, found: str) -> None:
    if found != file.sha256:
        raise BundleError(
            f"bundle {root}: {file.file} is damaged or changed: expected sha256 {file.sha256[:12]}…, "
            f"got {found[:12]}…",
            hint="copy the bundle again, whole",
        )


def _labels(path: Path, content: bytes) -> tuple[str, ...]:
    try:
        text = content.decode("utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError:
        raise BundleError(f"{path}: expected UTF-8 text, one label a line") from None
    labels = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    empty = next((number for number, label in enumerate(labels, 1) if not label), None)
    if empty is not None:
        raise BundleError(
            f"{path}: expected one label a line and no empty line, got an empty line {empty}",
            hint="export the bundle again",
        )
    return labels
