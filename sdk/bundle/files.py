"""Open a bundle and verify its files against the hashes in ``bundle.json``; write a manifest.

``Bundle.open`` decodes and validates ``bundle.json``, keeps every path inside the folder, and checks each
listed file's sha256 before anything is loaded. Signatures are handled in ``sdk.bundle.signature``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from sdk.bundle.manifest import MANIFEST, SCHEMA, SIGNATURE, File, Manifest
from sdk.errors import BundleError


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
            from sdk.bundle.signature import verify  # it needs the extra [signing]

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
    return Path(chosen) if chosen else Path(__file__).parents[1] / "bundles" / "ren-cifar10-edge"


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
