"""``edge-export sign``, and that what changes a signed bundle does not leave a signature that is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from export import cli
from export.cli import sign as sign_command
from export.signing import sign
from sdk.bundle import SIGNATURE, Bundle
from tests.export.cli.helpers import assert_one_line, run
from tests.sdk.keys import Keys, make_keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path / "keys")


def test_signs_and_says_by_which_key(bundle_copy: Path, keys: Keys) -> None:
    done = run("sign", bundle_copy, "--key", keys.private)
    assert (done.exit_code, done.stderr) == (0, "")
    signer = Bundle.open(bundle_copy, public_key=keys.public).signed_by
    assert done.stdout == f"{bundle_copy / SIGNATURE}: signed by the key {signer}\n"


def test_wrong_use_is_one_line(bundle_copy: Path, keys: Keys, tmp_path: Path) -> None:
    assert_one_line(run("sign", bundle_copy, "--key", keys.public), 2, "expected an Ed25519 private key")
    assert_one_line(
        run("sign", bundle_copy, "--key", tmp_path / "none.pem"), 2, "can't be read: No such file"
    )
    assert_one_line(run("sign", tmp_path, "--key", keys.private), 1, "no bundle.json in it")
    encrypted = make_keys(tmp_path / "keys", "encrypted", passphrase="sesame")
    assert_one_line(run("sign", bundle_copy, "--key", encrypted.private), 2, "no passphrase was given")
    (bundle_copy / "labels.txt").write_text("cat\n")
    assert_one_line(run("sign", bundle_copy, "--key", keys.private), 1, "labels.txt is damaged")
    assert not (bundle_copy / SIGNATURE).exists()


def test_asks_a_person_for_the_passphrase(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = make_keys(tmp_path / "keys", passphrase="sesame")

    monkeypatch.setattr(sign_command, "_may_ask", lambda: True)
    done = CliRunner().invoke(
        cli.main, ["sign", str(bundle_copy), "--key", str(keys.private)], input="sesame\n"
    )
    assert done.exit_code == 0, done.output
    assert f"passphrase of {keys.private}" in done.stderr
    assert "sesame" not in done.output
    Bundle.open(bundle_copy, public_key=keys.public)


def test_new_precisions_remove_the_signature_and_say_so(exported: Path, keys: Keys, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "tiny"))
    sign(folder, keys.private)
    done = run("precision", folder, "--precision", "fp16", "--images", 2)
    assert done.exit_code == 0, done.output
    assert (
        f"edge-export: bundle {folder}: it was signed as it was before; that signature is removed"
        in done.stderr
    )
    assert f"edge-export sign {folder} --key PRIVATE.pem" in done.stderr
    assert not Bundle.open(folder).has_signature
    again = run("precision", folder, "--precision", "fp16", "--images", 2)
    assert "signed" not in again.stderr


def test_failed_precisions_leave_the_signature(exported: Path, keys: Keys, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "tiny"))
    sign(folder, keys.private)
    failed = run("precision", folder, "--precision", "fp16", "--data", tmp_path / "nowhere")
    assert failed.exit_code != 0
    assert Bundle.open(folder, public_key=keys.public).signed_by
