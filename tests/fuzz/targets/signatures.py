"""Signatures and public keys: nothing but the key's own signature of the very manifest opens a bundle."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from export.signing import sign
from sdk.bundle import MANIFEST, SIGNATURE, Bundle
from tests.conftest import write_tiny_bundle
from tests.fuzz import bar
from tests.fuzz.inputs import NUMBERS, mutated, texts
from tests.sdk.keys import Keys, make_keys


class Shared(NamedTuple):
    folder: Path
    keys: Keys


def prepare(folder: Path, stack: ExitStack) -> Shared:
    write_tiny_bundle(folder / "signed")
    keys = make_keys(folder / "keys")
    sign(folder / "signed", keys.private, version=3, purpose="gate")
    return Shared(folder, keys)


def attempt(data: st.DataObject, shared: Shared, folder: Path) -> None:
    signed, keys = shared.folder / "signed", shared.keys
    given, key = folder / "bundle", folder / "key.pem"
    given.mkdir()
    for path in signed.iterdir():
        if path.is_dir():
            (given / path.name).symlink_to(path)  # its hashes would hold, but it leads outside
        else:
            shutil.copyfile(path, given / path.name)
    signature, manifest = (signed / SIGNATURE).read_bytes(), (signed / MANIFEST).read_bytes()
    made_signature = data.draw(
        st.one_of(st.just(signature), mutated([signature, bytes(64)]), st.binary(max_size=99))
    )
    made_manifest = data.draw(st.one_of(st.just(manifest), mutated([manifest])))
    made_key = data.draw(
        st.one_of(mutated([keys.public.read_bytes(), keys.private.read_bytes()]), st.binary())
    )
    (given / SIGNATURE).write_bytes(made_signature)
    (given / MANIFEST).write_bytes(made_manifest)
    key.write_bytes(made_key)
    version = data.draw(st.sampled_from([None, *(n for n in NUMBERS if isinstance(n, int))]))
    purpose = data.draw(st.one_of(st.none(), st.just("gate"), texts))
    with bar.held(folder):
        opened = Bundle.open(given, public_key=key, min_version=version, purpose=purpose)
        raise bar.Missed(f"opened under {opened.signed_by}")  # a folder in it is a link that leads outside
