"""Golden outputs for the tests' bundle, recorded from its own engines in ONNX Runtime."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from sdk.backends.golden import Golden
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import MANIFEST, Bundle, File, Manifest, sha256_of, write_manifest
from sdk.draw import Drawer

N_DRAWS = 12


def with_golden(folder: Path) -> Bundle:
    """Record golden outputs into the bundle in ``folder``: every engine drawn, on two images."""
    bundle = Bundle.open(folder)
    height, width = bundle.manifest.image.height, bundle.manifest.image.width
    images = np.random.default_rng(0).integers(60, 200, (2, 3, height, width), np.uint8)
    image = np.arange(N_DRAWS) % 2
    draws = Drawer(bundle.manifest, seed=0).draw(votes=N_DRAWS)
    with closing(OnnxRuntimeBackend(bundle)) as backend:
        runs = [
            backend.run(draw, images[i][None].astype(np.float32) / 255, want_purified=True)
            for draw, i in zip(draws, image, strict=True)
        ]
    Golden(
        images=images,
        image=image,
        purifier=np.array([draw.purifier for draw in draws]),
        classifier=np.array([draw.classifier for draw in draws]),
        random_inputs={"atom_mask": np.concatenate([draw.random_inputs["atom_mask"] for draw in draws])},
        positions=np.arange(images[0].size),
        purified=np.stack([np.ravel(run.purified) for run in runs]),
        logits=np.concatenate([run.logits for run in runs]),
    ).save(folder / bundle.manifest.golden.file)
    rehash(folder)
    return Bundle.open(folder)


def rehash(folder: Path) -> None:
    """Bring the manifest up to date with the files, as an exporter that goes wrong would."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    raw = msgspec.to_builtins(manifest)

    def renew(value: object) -> object:
        if isinstance(value, dict):
            if set(value) == {"file", "sha256"}:
                return msgspec.to_builtins(File(value["file"], sha256_of(folder / value["file"])))
            return {key: renew(item) for key, item in value.items()}
        return [renew(item) for item in value] if isinstance(value, (list, tuple)) else value

    write_manifest(folder, msgspec.convert(renew(raw), Manifest))
