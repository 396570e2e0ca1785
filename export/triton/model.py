"""The model that clients of Triton call: purifies and classifies images, with random engines drawn for each.

``edge-export triton`` copies this file into the model repository, where Triton's Python backend runs it. It
needs Python's library and NumPy alone. The file ``purify.json`` beside it names the engines' models.

Fails closed: whatever goes wrong, a request gets an error and no label. Draws come from the operating
system's CSPRNG and are returned to nobody.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Images = npt.NDArray[np.float32]


class Refused(Exception):
    """A request or an engine's output can't be used."""


class TritonPythonModel:
    """Triton's interface of a Python model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings; ``args`` is Triton's, with the model's folder, version and configuration."""
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = json.loads((folder / "purify.json").read_text(encoding="utf-8"))
        self._purifiers: list[dict[str, Any]] = settings["purifiers"]
        self._classifiers: list[str] = settings["classifiers"]
        self._shape: tuple[int, ...] = tuple(settings["shape"])
        self._n_classes: int = settings["n_classes"]
        self._temperature: float = settings["temperature"]
        votes = json.loads(args["model_config"])["parameters"]["votes"]["string_value"]
        self._votes = int(votes)
        if self._votes < 1:
            raise pb_utils.TritonModelException(f"votes: expected 1 or more, got {votes}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, by its outputs or an error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            tensor = pb_utils.get_input_tensor_by_name(request, "image")
            images = self._checked_images(tensor.as_numpy())
            found = [self._vote(image[None]) for image in images]
        except Exception as error:  # a failure of any kind must not become a label
            said = " ".join(str(error).split()) or type(error).__name__
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(said))
        outputs = {
            "probabilities": np.stack([probabilities for probabilities, _ in found]),
            "purified": np.concatenate([purified for _, purified in found]),
        }
        wanted = set(request.requested_output_names()) or set(outputs)
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items() if name in wanted]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _checked_images(self, images: Images) -> Images:
        if images.shape[1:] != self._shape or not len(images):
            shape = ", ".join(map(str, ("N", *self._shape)))
            raise Refused(f"image: expected shape [{shape}], N at least 1, got {list(images.shape)}")
        if not ((images >= 0) & (images <= 1)).all():  # NaN is neither
            raise Refused("image: expected values from 0 to 1")
        return images

    def _vote(self, image: Images) -> tuple[npt.NDArray[np.float32], Images]:
        """The mean probabilities over the votes, (n_classes,), and the first purified image."""
        probabilities, first = [], None
        for _ in range(self._votes):
            purifier = secrets.choice(self._purifiers)
            inputs = {spec["name"]: subset(spec) for spec in purifier["random_inputs"]}
            purified = self._run(purifier["model"], "purified", (1, *self._shape), image=image, **inputs)
            classifier = secrets.choice(self._classifiers)
            logits = self._run(classifier, "logits", (1, self._n_classes), image=purified)
            probabilities.append(softmax(logits[0] / self._temperature))
            first = purified if first is None else first
        assert first is not None, "there is one vote at least"
        return np.mean(probabilities, axis=0, dtype=np.float32), first

    def _run(self, model: str, output: str, shape: tuple[int, ...], **inputs: np.ndarray) -> Images:
        """One engine's output, checked."""
        response = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=[output],
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise Refused(f"model {model}: {response.error().message()}")
        array: Images = pb_utils.get_output_tensor_by_name(response, output).as_numpy()
        if array.shape != shape:
            raise Refused(
                f"model {model}: expected an output of shape {list(shape)}, got {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise Refused(f"model {model}: NaN or infinite values in its output, so the image gets no label")
        return array


def subset(spec: dict[str, Any]) -> np.ndarray:
    """A random input: a uniform subset, ``take`` of ``size`` positions, as the engine takes it.

    A 0/1 mask ``(1, size)``, or the positions in increasing order ``(1, take)``: those of the smallest among
    ``size`` random words.
    """
    keys = np.frombuffer(os.urandom(8 * spec["size"]), np.uint64)
    positions = keys.argsort()[: spec["take"]]
    if spec["encoding"] == "indices":
        return np.sort(positions).astype(spec["dtype"])[None]
    mask = np.zeros((1, spec["size"]), spec["dtype"])
    mask[0, positions] = 1
    return mask


def softmax(logits: Images) -> Images:
    """Probabilities of logits, (n_classes,)."""
    powers = np.exp(logits - logits.max())
    result: Images = powers / powers.sum()
    return result
