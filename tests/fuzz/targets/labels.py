"""Label files, in all the places where one is read."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from hypothesis import strategies as st

from export.external_classifier.classifier import read_labels
from sdk.bundle import Bundle
from sdk.host.terminal import printable
from tests.conftest import write_tiny_bundle
from tests.export.spoil import rehash
from tests.fuzz import bar
from tests.fuzz.inputs import TEXTS, corpus, mutated
from trainer.data.catalogue import read_classes

PIECES = tuple(text.encode(errors="surrogatepass") for text in TEXTS)


def prepare(folder: Path, stack: ExitStack) -> Path:
    write_tiny_bundle(folder / "bundle")
    return folder / "bundle"


def attempt(data: st.DataObject, shared: Path, folder: Path) -> None:
    content = data.draw(st.one_of(mutated(corpus("labels"), PIECES), st.binary(max_size=200)), "labels")
    path = folder / "labels.txt"
    path.write_bytes(content)
    for read in (read_labels, read_classes):
        with bar.held(folder):
            labels = read(path)
            assert labels
            assert all(label and "\n" not in label for label in labels)
            assert "\x1b" not in printable(labels)
    (shared / "labels.txt").write_bytes(content)
    rehash(shared)
    with bar.held(folder):
        assert all(Bundle.open(shared).labels)
