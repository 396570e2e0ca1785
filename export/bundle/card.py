"""``MODEL_CARD.md``: what a bundle is, where it comes from, what was measured, and what it can't do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sdk.bundle import Manifest
from sdk.bundle.deviation import AMPLIFIED, BOUND
from sdk.bundle.sections import section

ORIGIN = {
    "ren": """\
A **reconstruction from the abstract** of 'Adversarial purification using random encoding networks' (Applied
Soft Computing 183, 113604, 2025), not a reproduction: the paper's architecture, losses and code are not
public.""",
    "maep": """\
A **reconstruction from the abstract** of the masked autoencoder purifier (arXiv 2501.16904), not a
reproduction.""",
}

THREAT_MODEL_HEADING = "## Threat model"
THREAT_MODEL = """\
An ℓp-bounded perturbation of the pixels that enter the resize, by an attacker who knows everything (weights,
code, this card) but the draws. A persistent attacker on a video averages over draws, so the expectation over
draws is what counts, not a lucky frame."""

START, END = "<!-- precisions: start -->", "<!-- precisions: end -->"

NOT_MEASURED = """\
Clean accuracy of these engines: not measured yet; training's figures are in the provenance.

Robustness ladder: not measured yet.
"""

LABELS_SHOWN = 20  # of, perhaps, a thousand

LIMITS = """\
- A purifier that was trained on clean images is expected to fall to adaptive attacks, which differentiate
  through the purifier and average over its draws: robust accuracy near 0 % is the expected result. Randomness
  pays against attackers who transfer, query, or ignore the draws.
- Accuracy holds for images like the training images, at the engines' size; others get a label all the same.
- The score is a softmax, calibrated only where this card says by what temperature, and then on clean images
  like the training images. It is no sign that an image is free of attack."""


def render(manifest: Manifest, labels: tuple[str, ...]) -> str:
    """The card, as Markdown; a figure that wasn't measured is said to be so."""
    image = manifest.image
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            f"{len(manifest.purifiers)} random purifiers and {len(manifest.classifiers)} classifiers, one of",
            f"each drawn for every frame, at {image.height} × {image.width} pixels.",
            ORIGIN[manifest.family],
            "",
            f"Labels: {', '.join(labels[:LABELS_SHOWN])}{', …' if len(labels) > LABELS_SHOWN else ''}",
            "",
            "## Random inputs",
            *_random_inputs(manifest),
            "",
            "## Measured",
            *_measured(manifest.measured),
            "",
            *_held_to(manifest),
            "",
            THREAT_MODEL_HEADING,
            THREAT_MODEL,
            "",
            "## Limits",
            LIMITS,
            "",
            "## Training and provenance",
            *_provenance(manifest.provenance),
            "",
        ]
    )


def with_precisions(card: str, recorded: Mapping[str, Any]) -> str:
    """``card`` with a section on the lower precisions, in place of an earlier one."""
    section = f"{START}\n## Lower precisions\n" + "\n".join(_precisions(recorded)) + f"\n{END}\n"
    if START in card and END in card:
        before, rest = card.split(START, 1)
        return before + section.removesuffix("\n") + rest.split(END, 1)[1]
    before, heading, after = card.partition(THREAT_MODEL_HEADING)
    return f"{before}{section}\n{heading}{after}"


def _precisions(recorded: Mapping[str, Any]) -> Iterator[str]:
    yield "Made from the FP32 engines and held to them under the same draws, in ONNX Runtime on a CPU."
    for precision, record in recorded.items():
        yield ""
        share, calibrated_on = record["size_share"], record["calibrated_on"]
        yield f"**{precision.upper()}**: {share:.0%} of the size; calibrated on {calibrated_on}."
        for engine, found in record["parity"].items():
            yield (
                f"- {engine}: off by at most {found['max_abs']:.1e}, {found['mean_abs']:.1e} on average; "
                f"top-1 agreement {found['top1']:.1%}{_how(record['engines'][engine])}"
            )
        for drop in record["accuracy"]:
            yield (
                f"- accuracy on {drop['n_images']} {drop['says']} images, {drop['n_draws']} draws each: FP32 "
                f"{drop['fp32']:.2f} %, {precision.upper()} {drop['accuracy']:.2f} %; the drop is at most "
                f"{drop['upper']:.2f} points (paired, 95 %)"
            )
        if not record["accuracy"]:
            yield "- accuracy: not measured, there were no labelled images"
        if "cpu" in record:
            yield from _for_cpus(precision, record["cpu"])


def _for_cpus(precision: str, record: Mapping[str, Any]) -> Iterator[str]:
    """The graphs that CPUs run instead."""
    yield ""
    yield f"**{precision.upper()} on CPUs**, graphs of their own: {record['size_share']:.0%} of the size."
    for engine, found in record["parity"].items():
        if record["engines"][engine].get("graph") == "fp32":
            yield f"- {engine}: the FP32 graph, which is faster there"
            continue
        yield (
            f"- {engine}: off by at most {found['max_abs']:.1e}, {found['mean_abs']:.1e} on average; "
            f"top-1 agreement {found['top1']:.1%}{_how(record['engines'][engine])}"
        )
    for drop in record["accuracy"]:
        yield (
            f"- accuracy on {drop['n_images']} {drop['says']} images: FP32 {drop['fp32']:.2f} %, "
            f"{precision.upper()} {drop['accuracy']:.2f} %; the drop is at most {drop['upper']:.2f} points "
            "(paired, 95 %)"
        )


def _how(engine: Mapping[str, Any]) -> str:
    if "method" not in engine:
        return ""
    excluded = ", ".join(engine["excluded_layers"]) or "none"
    return f"; calibrated by {engine['method']}, layers left in FP32: {excluded}"


def _random_inputs(manifest: Manifest) -> Iterator[str]:
    for given in manifest.purifiers[0].random_inputs:
        yield f"- `{given.name}`: a uniform subset, {given.take} out of {given.size}, from the OS's CSPRNG."


def _measured(measured: tuple[dict[str, Any], ...]) -> Iterator[str]:
    if not measured:
        yield section("robustness", NOT_MEASURED).rstrip("\n")
    for entry in measured:
        ladder = entry.get("ladder") or {}
        setting = [f"{key} {value}" for key, value in entry.items() if key != "ladder"]
        yield f"- {', '.join(setting)}"
        yield from (f"  - {attack}: {figure}" for attack, figure in ladder.items())
        if set(ladder) <= {"clean"}:
            yield "  - robustness ladder: not measured yet"


def _held_to(manifest: Manifest) -> Iterator[str]:
    if not manifest.has_external_classifier:
        yield f"When the bundle was written, every engine was within {BOUND:.0e} of its torch twin (pixels"
        yield "in [0, 1], logits) under the same draws; `edge-export verify` repeats that."
        return
    trained_with = "foreign_classifier" not in manifest.provenance
    yield "The classifier is an ONNX file that its user brought; white-box attacks go through its own graph."
    if not trained_with:
        yield "The purifiers were **not trained with it**."
    yield f"When the bundle was written, every purifier was within {BOUND:.0e} of its torch model under the"
    yield "same draws, and the classifier decided as the file given, its logits within "
    yield f"{AMPLIFIED.max_abs:.0%} of their standard deviation."


def _provenance(provenance: Mapping[str, Any]) -> Iterator[str]:
    for key, value in provenance.items():
        if key == "precisions":  # these have a section of their own
            continue
        if key == "ancestors":
            if value:
                yield f"- began with the weights of: {', '.join(value)}, whose config is in bundle.json"
        elif isinstance(value, Mapping):
            yield f"- {key}:"
            yield "  ```json"
            yield from ("  " + line for line in json.dumps(value, indent=1).splitlines())
            yield "  ```"
        else:
            yield f"- {key.replace('_', ' ')}: {value}"
