"""Sign a bundle with an Ed25519 private key, so that devices can require its signature."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from sdk.bundle import MANIFEST, SIGNATURE, Bundle, write_file, write_manifest
from sdk.bundle.files import MAX_MANIFEST_BYTES
from sdk.bundle.regular import read_regular
from sdk.bundle.signature import KeyFile, fingerprint, kind_of, read_key, require_cryptography
from sdk.errors import BundleError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class PassphraseNeeded(UsageError):
    """The private key is encrypted, and no passphrase was given."""


def sign(
    folder: str | os.PathLike[str],
    private_key: KeyFile,
    passphrase: str | None = None,
    *,
    version: int | None = None,
    purpose: str | None = None,
) -> str:
    """Sign the bundle in ``folder``, once every file of it is verified; an earlier signature is replaced.

    Args:
        folder: the bundle's.
        private_key: PEM file of an Ed25519 private key.
        passphrase: of the key, if that is encrypted.
        version, purpose: written into the manifest first, where given; see ``Manifest``.

    Returns:
        The fingerprint of the key, and so of its public half.

    Raises:
        PassphraseNeeded: the key is encrypted, and ``passphrase`` is None.
        UsageError: ``private_key`` is not the PEM file of an Ed25519 private key, or the passphrase is wrong.
        BundleError: the bundle is damaged or can't be written, or an engine keeps weights in files that no
            hash covers; or ``cryptography`` is not installed.
    """
    require_cryptography()
    key = _private_key(private_key, passphrase)
    bundle = _labelled(Bundle.open(folder), version, purpose)
    for file in (*bundle.manifest.files(), *bundle.manifest.plans):
        bundle.read(file)  # refuses what a signature could not vouch for
    try:
        manifest = read_regular(bundle.folder / MANIFEST, MAX_MANIFEST_BYTES)
        if hashlib.sha256(manifest).hexdigest() != bundle.digest:
            raise BundleError(
                f"bundle {folder}: {MANIFEST} changed while it was being signed", hint="sign it again"
            )
        write_file(bundle.folder, SIGNATURE, key.sign(manifest))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"bundle {folder}: {SIGNATURE} can't be written: {getattr(error, 'strerror', error)}"
        ) from None
    return fingerprint(key.public_key())


def _labelled(bundle: Bundle, version: int | None, purpose: str | None) -> Bundle:
    """``bundle`` with ``version`` and ``purpose`` in its manifest, where they are given."""
    given = {"version": version, "purpose": purpose}
    changes = {name: value for name, value in given.items() if value is not None}
    if all(getattr(bundle.manifest, name) == value for name, value in changes.items()):
        return bundle
    try:
        write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, **changes))
    except ValueError as error:  # the manifest's own checks
        raise UsageError(f"bundle {bundle.folder}: {error}") from None
    except OSError as error:
        raise BundleError(f"bundle {bundle.folder}: {MANIFEST} can't be written: {error.strerror}") from None
    return Bundle.open(bundle.folder)


def _private_key(path: KeyFile, passphrase: str | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_key(path)
    encrypted = b"ENCRYPTED PRIVATE KEY" in pem
    if encrypted and passphrase is None:
        raise PassphraseNeeded(f"key {path}: it is encrypted, and no passphrase was given")
    try:
        key = load_pem_private_key(pem, passphrase.encode() if encrypted and passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise UsageError(f"key {path}: can't be decrypted", hint="is the passphrase right?") from None
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"key {path}: expected an Ed25519 private key in PEM, got {kind_of(key)}",
            hint="make one: openssl genpkey -algorithm ed25519 -out private.pem",
        )
    return key
