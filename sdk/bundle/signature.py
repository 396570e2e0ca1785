"""Verify a bundle's signature.

``bundle.json.sig`` is the 64 bytes of an Ed25519 signature (RFC 8032) over the bytes of ``bundle.json``,
which holds the sha256 of every other file. ``export.signing`` makes one; so does OpenSSL, where the private
key must not meet this package:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    openssl pkeyutl -sign -rawin -inkey private.pem -in bundle.json -out bundle.json.sig
"""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.bundle.manifest import MANIFEST, SIGNATURE
from sdk.bundle.regular import read_regular
from sdk.errors import BundleError, UsageError
from sdk.given import read_given

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_BYTES = 64
MAX_SIGNATURE_BYTES = 4096  # so many are read, to say how many there are

KeyFile = str | os.PathLike[str]


def verify(folder: Path, manifest: bytes, public_key: KeyFile) -> str:
    """Hold ``manifest``, the bytes of a bundle's ``bundle.json``, to the signature in its folder.

    Returns:
        The key's fingerprint.

    Raises:
        UsageError: ``public_key`` is not the PEM file of an Ed25519 public key.
        BundleError: the bundle is unsigned, or signed by another key, or was changed since; or
            ``cryptography`` is not installed.
    """
    require_cryptography()
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public_key)
    signature = _read_signature(folder)
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise BundleError(
            f"bundle {folder}: {SIGNATURE} is not a signature of this {MANIFEST} by {public_key} "
            f"({fingerprint(key)[:16]}…): another key's, or the bundle was changed",
            hint="don't use this bundle",
        ) from None
    return fingerprint(key)


def sign_again(folder: Path) -> str:
    """What to tell who changed a signed bundle, which ``write_manifest`` then left unsigned."""
    return (
        f"bundle {folder}: it was signed as it was before; that signature is removed, "
        f"sign it again: edge-export sign {shlex.quote(str(folder))} --key PRIVATE.pem"
    )


def fingerprint(key: Ed25519PublicKey) -> str:
    """Sha256 of a public key in DER, in hex, as by ``openssl pkey -pubin -outform DER | sha256sum``."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _public_key(path: KeyFile) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = read_key(path)
    if b"PRIVATE KEY-----" in pem:
        raise UsageError(
            f"key {path}: expected the public key, got a private one, which belongs on no device",
            hint=f"make its public half: openssl pkey -in {path} -pubout",
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"key {path}: expected an Ed25519 public key in PEM, got {kind_of(key)}")
    return key


def read_key(path: KeyFile) -> bytes:
    try:
        return read_given(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"key {path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _read_signature(folder: Path) -> bytes:
    try:
        signature = read_regular(folder / SIGNATURE, MAX_SIGNATURE_BYTES)
    except FileNotFoundError:
        raise BundleError(
            f"bundle {folder}: unsigned, and a signature is required",
            hint="get the signed bundle, or sign it: edge-export sign",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a device, a pipe or an enormous file
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"bundle {folder}: {SIGNATURE} can't be read: {reason}") from None
    if len(signature) != SIGNATURE_BYTES:
        raise BundleError(
            f"bundle {folder}: {SIGNATURE}: expected the {SIGNATURE_BYTES} bytes of an Ed25519 signature, "
            f"got {len(signature)}",
            hint="sign the bundle again",
        )
    return signature


def kind_of(key: object) -> str:
    return "something else" if key is None else type(key).__name__.lstrip("_")


def require_cryptography() -> None:
    """
    Raises:
        BundleError: ``cryptography`` is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise BundleError(
            f"signatures need a package that can't be imported ({error})",
            hint="pip install 'edge-purify[signing]'",
        ) from None
