"""What a classifier's scores are, logits or probabilities, and the nodes that make logits of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.external_classifier.reading import refusal
from sdk.arrays import FloatImage

Scores = Literal["logits", "probabilities"]

CLIPPED = 1e-12  # the least probability whose logarithm is taken
ROW_SUM = 5e-3  # a row of probabilities may be so far off 1, as after rounding to half precision
BOUNDS = 1e-5  # a probability may be so far outside [0, 1]


def recognize(
    path: Path, scores: FloatImage, n_labels: int, given: Scores | None, *, ends_in_sigmoid: bool
) -> Scores:
    """What ``scores`` (N, C) of N images are: as ``given``, or probabilities where every row sums to 1.

    One score is the probability of the second of two classes where a sigmoid makes it.

    Raises:
        UsageError: they don't fit ``n_labels``, can't be told apart, or aren't what was given.
    """
    n_scores = scores.shape[1]
    if not np.isfinite(scores).all():
        raise refusal(path, "it gives NaN or infinite scores for ordinary images", "check --mean and --std")
    is_binary = n_scores == 1
    if is_binary and n_labels == 1:
        raise refusal(
            path,
            "it gives one score, and --labels has one label, so every frame would get it with a score of 1",
            "give two labels: first that of a low score, then that of a high one",
        )
    if n_labels != (2 if is_binary else n_scores):
        raise refusal(
            path,
            f"it gives {n_scores} scores for an image, and --labels has {n_labels}",
            "give one label a line, in the order of the scores",
        )
    within = bool((scores >= -BOUNDS).all() and (scores <= 1 + BOUNDS).all())
    sums_to_one = not is_binary and bool((np.abs(scores.sum(axis=1) - 1) <= ROW_SUM).all())
    if given == "probabilities" and not within:
        low, high = float(scores.min()), float(scores.max())
        raise refusal(path, f"--scores probabilities: its scores go from {low:.3g} to {high:.3g}")
    if given is not None:
        return given
    if not within:
        return "logits"
    if sums_to_one or (is_binary and ends_in_sigmoid):
        return "probabilities"
    raise refusal(
        path,
        "its scores lie between 0 and 1 and don't sum to 1, as those of a sigmoid for each class",
        "say what they are by --scores logits or --scores probabilities, "
        "or name the values before the sigmoid by --output NAME",
    )


def logits_of(scores: FloatImage, kind: Scores) -> FloatImage:
    """Logits (N, n_classes) of ``scores``: a softmax of them gives the probabilities."""
    if scores.shape[1] == 1:
        if kind == "logits":
            return np.concatenate([np.zeros_like(scores), scores], axis=1)
        scores = np.concatenate([1 - scores, scores], axis=1)
    return np.log(np.maximum(scores, np.float32(CLIPPED))) if kind == "probabilities" else scores


def nodes(n_scores: int, kind: Scores) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """``logits_of`` in a graph: nodes and weights, from the value ``scores`` to ``logits`` (1, n_classes)."""
    weights = {"back_shape": np.array([1, n_scores], np.int64)}
    made = [helper.make_node("Reshape", ["scores", "back_shape"], ["back_Reshape"], name="back_Reshape")]
    last = "back_Reshape"
    if n_scores == 1:
        # (a, b) from one score s: (0, s) for a logit, (1 - s, s) for a probability
        sign, base = ([0, 1], [0, 0]) if kind == "logits" else ([-1, 1], [1, 0])
        weights |= {"back_sign": np.array([sign], np.float32), "back_base": np.array([base], np.float32)}
        made.append(helper.make_node("Mul", [last, "back_sign"], ["back_Mul"], name="back_Mul"))
        made.append(helper.make_node("Add", ["back_Mul", "back_base"], ["back_Add"], name="back_Add"))
        last = "back_Add"
    if kind == "probabilities":
        weights["back_least"] = np.array(CLIPPED, np.float32)
        made.append(helper.make_node("Max", [last, "back_least"], ["back_Max"], name="back_Max"))
        made.append(helper.make_node("Log", ["back_Max"], ["back_Log"], name="back_Log"))
    made[-1].output[0] = "logits"
    return made, [numpy_helper.from_array(values, name) for name, values in weights.items()]
