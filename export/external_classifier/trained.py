"""The ONNX classifier of a checkpoint, as the purifiers were trained with it, for its bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from export.external_classifier.classifier import ForeignClassifier
from sdk.errors import UsageError
from trainer.checkpoint import Loaded
from trainer.config import Classifier
from trainer.models.onnx_classifier import find


def trained_classifier(loaded: Loaded) -> ForeignClassifier:
    """The file that ``loaded`` was trained through, or the file with the weights that training gave it.

    Raises:
        UsageError, ExportError: it can't be brought to an engine's form.
    """
    found = find(loaded.defence.classifier)
    if found is None:
        raise UsageError(f"checkpoint of {loaded.config['name']}: its classifier is no ONNX file")
    section = msgspec.convert(loaded.config["model"]["classifier"], Classifier)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(section.file or "classifier.onnx").name
        path.write_bytes(found.onnx_bytes())
        classifier = ForeignClassifier(
            path,
            loaded.labels,
            section.input,
            image_size=loaded.image_size,
            scores=found.scores,
            output=section.output,
        )
    classifier.trained_with = True
    return classifier
