"""Signed bundles: what opens under a required signature, and that all else is one line that says why."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from export.signing import PassphraseNeeded, sign
from sdk.backends.plan_store import bundle_folder, find_engine
from sdk.bundle import MANIFEST, SIGNATURE, Bundle, write_manifest
from sdk.bundle import files as bundles
from sdk.cli import main
from sdk.doctor import examine
from sdk.errors import BackendError, BundleError, UsageError
from sdk.purifier import Purifier
from tests.sdk.backends.test_plan_store import ORIN, fingerprint, listing, put
from tests.sdk.conftest import write_video
from tests.sdk.keys import Keys, make_keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


@pytest.fixture
def signed(bundle_copy: Path, keys: Keys) -> Path:
    sign(bundle_copy, keys.private)
    return bundle_copy


# --- what opens


def test_signed_bundle_opens_and_says_by_whom(signed: Path, keys: Keys) -> None:
    bundle = Bundle.open(signed, public_key=keys.public)
    assert bundle.signed_by == sign(signed, keys.private)
    assert len(bundle.signed_by) == 64
    assert Bundle.open(signed).signed_by is None, "nobody asked for it"


def test_every_way_in_takes_the_key(signed: Path, keys: Keys, red_frame: object) -> None:
    with Purifier.load(signed, require_signature=keys.public) as purifier:
        assert purifier.bundle.signed_by is not None
        assert purifier(red_frame).label == "red"
    (found,) = [
        one for one in examine(signed, require_signature=keys.public).findings if one.name == "bundle"
    ]
    assert found.status == "ok"
    assert "signed by the key" in found.what


def test_key_for_an_open_bundle_is_refused(signed: Path, keys: Keys) -> None:
    with pytest.raises(UsageError, match=r"the bundle is open already; .*to Bundle\.open"):
        Purifier.load(Bundle.open(signed), require_signature=keys.public)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_makes_and_checks_the_same_signature(signed: Path, keys: Keys) -> None:
    def openssl(*arguments: str | Path) -> bytes:
        command = ["openssl", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    ours, theirs = signed / SIGNATURE, signed / "theirs"
    files = ("-rawin", "-in", signed / MANIFEST)
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", keys.public, *files, "-sigfile", ours)
    openssl("pkeyutl", "-sign", "-inkey", keys.private, *files, "-out", theirs)
    assert theirs.read_bytes() == ours.read_bytes()
    der = openssl("pkey", "-pubin", "-in", keys.public, "-outform", "DER")
    assert Bundle.open(signed, public_key=keys.public).signed_by == hashlib.sha256(der).hexdigest()


# --- what does not


def test_unsigned_bundle_is_refused(bundle_copy: Path, keys: Keys) -> None:
    with pytest.raises(BundleError, match=r"unsigned, and a signature is required; get the signed bundle"):
        Bundle.open(bundle_copy, public_key=keys.public)


def test_another_keys_signature_is_refused(signed: Path, tmp_path: Path) -> None:
    others = make_keys(tmp_path / "keys", "other")
    with pytest.raises(BundleError, match=r"is not a signature of this bundle\.json by .*other\.pub\.pem"):
        Bundle.open(signed, public_key=others.public)


def test_change_to_any_part_of_the_manifest_is_refused_before_it_is_decoded(signed: Path, keys: Keys) -> None:
    sound = (signed / MANIFEST).read_bytes()
    harmless = sound.replace(b'"made by"', b'"made  by"')
    cut = sound[: len(sound) // 2]
    for changed in (harmless, cut, sound + b" ", b"", b"\xff" * 100):
        assert changed != sound
        (signed / MANIFEST).write_bytes(changed)
        with pytest.raises(BundleError, match="is not a signature of this"):
            Bundle.open(signed, public_key=keys.public)


def test_changed_file_is_refused_under_a_right_signature(signed: Path, keys: Keys) -> None:
    with (signed / "onnx/purifier-00.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(BundleError, match=r"purifier-00\.onnx is damaged or changed"):
        Bundle.open(signed, public_key=keys.public)


def test_bytes_that_are_verified_are_those_that_are_decoded(
    signed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = bundles._read_manifest

    def read_once(root: Path) -> bytes:
        reads.append(root)
        raw = read(root)
        (root / MANIFEST).write_bytes(b"{}")  # whoever swaps it now comes too late
        return raw

    monkeypatch.setattr(bundles, "_read_manifest", read_once)
    assert Bundle.open(signed, public_key=keys.public).manifest.name == "tiny"
    assert len(reads) == 1


@pytest.mark.parametrize("size", [0, 63, 65])
def test_signature_of_another_size_is_refused(signed: Path, keys: Keys, size: int) -> None:
    (signed / SIGNATURE).write_bytes(bytes(size))
    with pytest.raises(BundleError, match=rf"expected the 64 bytes of an Ed25519 signature, got {size}"):
        Bundle.open(signed, public_key=keys.public)


def test_engines_in_a_signed_bundles_folder_are_loaded_only_if_it_covers_them(
    signed: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain, strict = Bundle.open(signed), Bundle.open(signed, public_key=keys.public)
    path = put(bundle_folder(plain), fingerprint(plain, ORIN))
    engine = plain.manifest.purifiers[0]
    for bundle in (plain, strict):
        with pytest.raises(BackendError, match="none was built for TensorRT yet"):
            find_engine(bundle, engine, "fp32", ORIN)
    listing(plain, path)
    with pytest.raises(BundleError, match="unsigned"):
        Bundle.open(signed, public_key=keys.public)
    sign(signed, keys.private)
    strict = Bundle.open(signed, public_key=keys.public)
    assert find_engine(strict, engine, "fp32", ORIN).plan == path


# --- keys


def test_what_is_no_public_key_is_named(signed: Path, keys: Keys, tmp_path: Path) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for content, expected in (
        (pem, "expected an Ed25519 public key in PEM, got RSAPublicKey"),
        (b"hello", "expected an Ed25519 public key in PEM, got something else"),
        (keys.private.read_bytes(), "got a private one, which belongs on no device; .*-pubout"),
        (None, "can't be read: No such file"),
    ):
        path = tmp_path / "wrong.pem"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=expected):
            Bundle.open(signed, public_key=path)


def test_what_is_no_private_key_is_named(bundle_copy: Path, keys: Keys, tmp_path: Path) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path / "rsa.pem"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for wrong, expected in ((path, "got RSAPrivateKey"), (keys.public, "got something else")):
        with pytest.raises(UsageError, match=f"expected an Ed25519 private key in PEM, {expected}; make one"):
            sign(bundle_copy, wrong)


def test_encrypted_private_key_needs_its_passphrase(bundle_copy: Path, tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys", passphrase="sesame")
    with pytest.raises(PassphraseNeeded):
        sign(bundle_copy, keys.private)
    with pytest.raises(UsageError, match="is the passphrase right"):
        sign(bundle_copy, keys.private, "simsalabim")
    assert not (bundle_copy / SIGNATURE).exists()
    sign(bundle_copy, keys.private, "sesame")
    Bundle.open(bundle_copy, public_key=keys.public)


def test_missing_package_names_the_extra(signed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for attempt in (
        lambda: Bundle.open(signed, public_key=keys.public),
        lambda: sign(signed, keys.private),
    ):
        with pytest.raises(BundleError, match=r"pip install 'edge-purify\[signing\]'"):
            attempt()
    Bundle.open(signed)


# --- signing


def test_damaged_bundle_is_not_signed(bundle_copy: Path, keys: Keys) -> None:
    (bundle_copy / "labels.txt").write_text("cat\n")
    with pytest.raises(BundleError, match=r"labels\.txt is damaged"):
        sign(bundle_copy, keys.private)
    assert not list(bundle_copy.glob(SIGNATURE + "*"))


def test_writing_the_manifest_removes_the_signature_of_the_one_before(signed: Path, keys: Keys) -> None:
    write_manifest(signed, Bundle.open(signed).manifest)
    assert not Bundle.open(signed).has_signature
    with pytest.raises(BundleError, match="unsigned"):
        Bundle.open(signed, public_key=keys.public)


# --- the commands


@pytest.fixture
def edge_purify(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


def test_commands_take_the_key(
    edge_purify: Callable[..., tuple[int, str, str]], signed: Path, keys: Keys, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.avi", 3)
    by_key = ("--require-signature", keys.public)
    code, _, err = edge_purify("--source", clip, "--bundle", signed, *by_key)
    assert code == 0
    assert "3 frames in " in err
    code, out, _ = edge_purify("inspect", signed, *by_key, "--json")
    assert (code, len(json.loads(out)["signed_by"])) == (0, 64)
    assert "valid, by the key" in edge_purify("inspect", signed, *by_key)[1]
    assert "--require-signature KEY checks it" in edge_purify("inspect", signed)[1]
    assert "signed by the key" in edge_purify("doctor", "--bundle", signed, *by_key)[1].replace("\n", " ")


def test_commands_refuse_an_unsigned_bundle_in_one_line(
    edge_purify: Callable[..., tuple[int, str, str]], bundle_copy: Path, keys: Keys, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.avi", 3)
    by_key = ("--require-signature", keys.public)
    for command in (("--source", clip, "--bundle", bundle_copy, *by_key), ("inspect", bundle_copy, *by_key)):
        code, out, err = edge_purify(*command)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "unsigned, and a signature is required" in err
    code, out, _ = edge_purify("doctor", "--bundle", bundle_copy, *by_key)
    assert code == 1
    assert "unsigned" in out
    code, _, err = edge_purify("inspect", bundle_copy, "--require-signature", tmp_path / "none.pem")
    assert (code, err.count("\n")) == (2, 1)


def test_commands_take_version_and_purpose(
    edge_purify: Callable[..., tuple[int, str, str]],
    bundle_copy: Path,
    keys: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    clip = write_video(tmp_path / "clip.avi", 2)
    sign(bundle_copy, keys.private, version=2, purpose="gate")
    run = ("--source", clip, "--bundle", bundle_copy)
    by_key = ("--require-signature", keys.public)
    ours = (*by_key, "--min-version", 2, "--purpose", "gate", "--remember-version")
    assert edge_purify(*run, *ours)[0] == 0
    for wrong, code, message in (
        ((*by_key, "--min-version", 3), 1, "expected version 3 or later (required), got 2"),
        ((*by_key, "--purpose", "door"), 1, "expected the purpose 'door', got 'gate'"),
        (("--min-version", 1), 2, "only a signature vouches for it"),
    ):
        found, _, err = edge_purify(*run, *wrong)
        assert (found, err.count("\n")) == (code, 1)
        assert message in err
    sign(bundle_copy, keys.private, version=1)
    assert "(the highest opened before), got 1" in edge_purify(*run, *by_key, "--remember-version")[2]
