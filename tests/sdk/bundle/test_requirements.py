"""Version and purpose of a signed bundle: what a device may insist on, and that older bundles still open."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from export.signing import sign
from sdk.bundle import MANIFEST, Bundle
from sdk.bundle._requirements import Requirements
from sdk.errors import BundleError, UsageError
from tests.sdk.keys import Keys, make_keys


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


def release(folder: Path, keys: Keys, version: int | None = None, purpose: str | None = None) -> Path:
    sign(folder, keys.private, version=version, purpose=purpose)
    return folder


def test_signing_writes_version_and_purpose_under_the_signature(bundle_copy: Path, keys: Keys) -> None:
    release(bundle_copy, keys, 3, "gate camera")
    manifest = Bundle.open(bundle_copy, public_key=keys.public, min_version=3, purpose="gate camera").manifest
    assert (manifest.version, manifest.purpose) == (3, "gate camera")
    tree = json.loads((bundle_copy / MANIFEST).read_text())
    (bundle_copy / MANIFEST).write_text(json.dumps(tree | {"version": 4}))
    with pytest.raises(BundleError, match="is not a signature of this"):
        Bundle.open(bundle_copy, public_key=keys.public, min_version=4)


def test_an_older_or_unnumbered_bundle_is_refused(bundle_copy: Path, keys: Keys) -> None:
    release(bundle_copy, keys)
    Bundle.open(bundle_copy, public_key=keys.public)
    with pytest.raises(BundleError, match=r"expected version 2 or later \(required\), got none; get a newer"):
        Bundle.open(bundle_copy, public_key=keys.public, min_version=2)
    release(bundle_copy, keys, 1)
    with pytest.raises(BundleError, match=r"expected version 2 or later \(required\), got 1"):
        Bundle.open(bundle_copy, public_key=keys.public, min_version=2)


@pytest.mark.parametrize(("given", "got"), [(None, "none"), ("door", "'door'"), ("Gate", "'Gate'")])
def test_another_products_bundle_is_refused(
    bundle_copy: Path, keys: Keys, given: str | None, got: str
) -> None:
    release(bundle_copy, keys, purpose=given)
    with pytest.raises(BundleError, match=f"expected the purpose 'gate', got {got}"):
        Bundle.open(bundle_copy, public_key=keys.public, purpose="gate")


def test_the_highest_version_is_remembered_by_key_and_purpose(
    bundle_copy: Path, keys: Keys, tmp_path: Path
) -> None:
    def opened(version: int, key: Keys = keys, purpose: str = "gate", **how: bool) -> int | None:
        release(bundle_copy, key, version, purpose)
        return Bundle.open(bundle_copy, public_key=key.public, **how).manifest.version  # type: ignore[arg-type]

    assert opened(5, remember_version=True) == 5
    assert opened(7, remember_version=True) == 7
    with pytest.raises(BundleError, match=r"version 7 or later \(the highest opened before\), got 6"):
        opened(6, remember_version=True)
    assert opened(6) == 6, "nobody asked"
    assert opened(1, purpose="door", remember_version=True) == 1
    assert opened(1, make_keys(tmp_path / "keys", "other"), remember_version=True) == 1


def test_a_damaged_bundle_does_not_raise_what_is_remembered(bundle_copy: Path, keys: Keys) -> None:
    release(bundle_copy, keys, 9)
    labels = bundle_copy / "labels.txt"
    sound = labels.read_bytes()
    labels.write_bytes(b"cat\n")
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(bundle_copy, public_key=keys.public, remember_version=True)
    labels.write_bytes(sound)
    release(bundle_copy, keys, 8)
    Bundle.open(bundle_copy, public_key=keys.public, remember_version=True)


def test_a_memory_that_cannot_be_kept_or_read_is_no_pass(
    bundle_copy: Path, keys: Keys, tmp_path: Path
) -> None:
    release(bundle_copy, keys)
    with pytest.raises(BundleError, match=r"has no version to be remembered; sign it with one"):
        Bundle.open(bundle_copy, public_key=keys.public, remember_version=True)
    release(bundle_copy, keys, 2)
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(BundleError, match="version can't be re"):
        Bundle.open(bundle_copy, public_key=keys.public, remember_version=True)
    (tmp_path / "state").unlink()
    Bundle.open(bundle_copy, public_key=keys.public, remember_version=True)
    (memory,) = (tmp_path / "state").rglob("*.txt")
    for damaged in ("", "seven", "9" * 100):
        memory.write_text(damaged)
        with pytest.raises(BundleError, match="remembered version can't be read: expected a number"):
            Bundle.open(bundle_copy, public_key=keys.public, remember_version=True)


def test_what_only_a_signature_vouches_for_needs_the_key(bundle_copy: Path, keys: Keys) -> None:
    for how in ({"min_version": 1}, {"purpose": "gate"}, {"remember_version": True}):
        with pytest.raises(UsageError, match=f"{next(iter(how))}: only a signature vouches for it"):
            Bundle.open(bundle_copy, **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="min_version: expected at least 1, got 0"):
        Bundle.open(bundle_copy, public_key=keys.public, min_version=0)


@pytest.mark.parametrize(("field", "value"), [("version", 0), ("version", 1 << 63), ("purpose", " ")])
def test_an_impossible_version_or_purpose_is_named(bundle_copy: Path, field: str, value: object) -> None:
    tree = json.loads((bundle_copy / MANIFEST).read_text())
    (bundle_copy / MANIFEST).write_text(json.dumps(tree | {field: value}))
    with pytest.raises(BundleError, match=f"{field}: expected"):
        Bundle.open(bundle_copy)


def test_the_lower_of_two_processes_does_not_win(bundle_copy: Path, tmp_path: Path) -> None:
    """What is remembered is read again under the lock, not carried over from before the bundle was opened."""
    older, newer = (msgspec.structs.replace(Bundle.open(bundle_copy).manifest, version=v) for v in (5, 9))
    required = Requirements(None, None, remember_version=True)
    required.hold(bundle_copy, older, "key")
    required.remember(bundle_copy, newer, "key")  # the other process, meanwhile
    required.remember(bundle_copy, older, "key")
    (memory,) = (tmp_path / "state").rglob("*.txt")
    assert memory.read_text() == "9\n"
