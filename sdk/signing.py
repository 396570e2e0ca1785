"""A bundle's signature: who vouches for it, beside that it is whole.

``bundle.json.sig`` is the 64 bytes of an Ed25519 signature (RFC 8032) over the bytes of ``bundle.json``,
which holds the sha256 of every other file.  Keys are PEM files, as OpenSSL makes them, and OpenSSL makes the
same signature where the private key must not meet this package:

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

from sdk.bundle import MANIFEST, SIGNATURE, Bundle
from sdk.errors import BundleError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64

KeyFile = str | os.PathLike[str]


class PassphraseNeeded(UsageError):
    """The private key is encrypted, and no passphrase was given."""


def verify(folder: Path, manifest: bytes, public_key: KeyFile) -> str:
    """Hold ``manifest``, the bytes of a bundle's ``bundle.json``, to the signature in its folder.

    Returns:
        The key's fingerprint.

    Raises:
        UsageError: ``public_key`` is not the PEM file of an Ed25519 public key.
        BundleError: the bundle is unsigned, or signed by another key, or was changed since; or
            ``cryptography`` is not installed.
    """
    _require_cryptography()
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public_key)
    signature = _read_signature(folder)
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise BundleError(
            f"bundle {folder}: {SIGNATURE} is not a signature of this {MANIFEST} by {public_key} "
            f"({fingerprint(key)[:16]}…): another key's, or the bundle was changed; don't use this bundle"
        ) from None
    return fingerprint(key)


def sign(folder: str | os.PathLike[str], private_key: KeyFile, passphrase: str | None = None) -> str:
    """Sign the bundle in ``folder``, once every file of it is verified; an earlier signature is replaced.

    Returns:
        The fingerprint of the key, and so of its public half.

    Raises:
        PassphraseNeeded: the key is encrypted, and ``passphrase`` is None.
        UsageError: ``private_key`` is not the PEM file of an Ed25519 private key, or the passphrase is wrong.
        BundleError: the bundle is damaged or can't be written; or ``cryptography`` is not installed.
    """
    _require_cryptography()
    key = _private_key(private_key, passphrase)
    bundle = Bundle.open(folder)
    part = bundle.folder / (SIGNATURE + ".part")
    try:
        manifest = (bundle.folder / MANIFEST).read_bytes()
        if hashlib.sha256(manifest).hexdigest() != bundle.digest:
            raise BundleError(f"bundle {folder}: {MANIFEST} changed while it was being signed; sign it again")
        part.write_bytes(key.sign(manifest))
        part.replace(bundle.folder / SIGNATURE)
    except OSError as error:
        raise BundleError(f"bundle {folder}: {SIGNATURE} can't be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return fingerprint(key.public_key())


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

    pem = _read_key(path)
    if b"PRIVATE KEY-----" in pem:
        raise UsageError(
            f"key {path}: expected the public key, got a private one, which belongs on no device; "
            f"make its public half: openssl pkey -in {path} -pubout"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"key {path}: expected an Ed25519 public key in PEM, got {_kind(key)}")
    return key


def _private_key(path: KeyFile, passphrase: str | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_key(path)
    encrypted = b"ENCRYPTED PRIVATE KEY" in pem
    if encrypted and passphrase is None:
        raise PassphraseNeeded(f"key {path}: it is encrypted, and no passphrase was given")
    try:
        key = load_pem_private_key(pem, passphrase.encode() if encrypted and passphrase is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise UsageError(f"key {path}: can't be decrypted; is the passphrase right?") from None
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"key {path}: expected an Ed25519 private key in PEM, got {_kind(key)}; "
            "make one: openssl genpkey -algorithm ed25519 -out private.pem"
        )
    return key


def _read_key(path: KeyFile) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"key {path}: can't be read: {getattr(error, 'strerror', None) or error}") from None


def _read_signature(folder: Path) -> bytes:
    try:
        signature = (folder / SIGNATURE).read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"bundle {folder}: unsigned, and a signature is required; get the signed bundle, "
            "or sign it: edge-export sign"
        ) from None
    except OSError as error:
        raise BundleError(f"bundle {folder}: {SIGNATURE} can't be read: {error.strerror}") from None
    if len(signature) != SIGNATURE_BYTES:
        raise BundleError(
            f"bundle {folder}: {SIGNATURE}: expected the {SIGNATURE_BYTES} bytes of an Ed25519 signature, "
            f"got {len(signature)}; sign the bundle again"
        )
    return signature


def _kind(key: object) -> str:
    return "something else" if key is None else type(key).__name__.lstrip("_")


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise BundleError(
            f"signatures need a package that can't be imported ({error}); pip install 'edge-purify[signing]'"
        ) from None
