"""The bundle: the folder that ships, its schema, its integrity, its signature and its self-test.

A bundle holds ``bundle.json``, one ONNX file per purifier and classifier (and precision), the labels, the
torch twin's weights, golden outputs for a self-test, and a model card.
"""

from sdk.bundle.coverage import CoveredFile
from sdk.bundle.files import Bundle, default_bundle, sha256_of, write_file, write_manifest
from sdk.bundle.manifest import (
    MANIFEST,
    SCHEMA,
    SIGNATURE,
    Engine,
    File,
    Image,
    Manifest,
    RandomInput,
    Twin,
)
from sdk.choices import Precision

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SIGNATURE",
    "Bundle",
    "CoveredFile",
    "Engine",
    "File",
    "Image",
    "Manifest",
    "Precision",
    "RandomInput",
    "Twin",
    "default_bundle",
    "sha256_of",
    "write_file",
    "write_manifest",
]
