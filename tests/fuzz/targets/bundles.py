"""Bundles: any field of the manifest, any bytes of a file, sizes, links, and archives in place of folders."""

from __future__ import annotations

import io
import shutil
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from sdk.backends.golden import Golden, replay
from sdk.bundle import Bundle
from sdk.cli import bundle_view
from sdk.purifier import Purifier
from tests.conftest import write_tiny_bundle
from tests.fuzz import bar
from tests.sdk.bundle.hostile import mutate
from tests.sdk.fakes.golden import with_golden

FRAME = np.full((30, 40, 3), 90, np.uint8)


def prepare(folder: Path, stack: ExitStack) -> Path:
    write_tiny_bundle(folder / "sound")
    with_golden(folder / "sound")
    shutil.make_archive(str(folder / "archive"), "zip", folder / "sound")
    shutil.make_archive(str(folder / "archive"), "gztar", folder / "sound")
    return folder


def attempt(data: st.DataObject, shared: Path, folder: Path) -> None:
    given = folder / "bundle"
    how = data.draw(st.integers(0, 19), "kind")
    if how == 0:
        name = data.draw(st.sampled_from(["archive.zip", "archive.tar.gz", "sound/bundle.json"]))
        shutil.copyfile(shared / name, given)
    else:
        shutil.copytree(shared / "sound", given)
        mutate(given, data.draw(st.integers(0, 2**32), "mutation"))
    with bar.held(folder):
        bundle = Bundle.open(given)
        bundle.coverage()
        bundle_view.bundle_json(bundle)
        with redirect_stdout(io.StringIO()):
            bundle_view.show_bundle(bundle)
        golden = Golden.load(bundle)
        with Purifier.load(bundle, backend="onnxruntime", precision="fp32", seed=1) as purifier:
            purifier(FRAME)
            replay(bundle, purifier.backend, golden)
