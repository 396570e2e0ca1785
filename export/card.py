"""``MODEL_CARD.md``: what a bundle is, where it comes from, what was measured, and what it can't do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from export.gate import BOUND
from sdk.bundle import Manifest

ORIGIN = {
    "ren": """\
A **reconstruction from the abstract** of 'Adversarial purification using random encoding networks' (Applied
Soft Computing 183, 113604, 2025), not a reproduction: the paper's architecture, losses and code are not
public.""",
    "maep": """\
A **reconstruction from the abstract** of the masked autoencoder purifier (arXiv 2501.16904), not a
reproduction.""",
}

THREAT_MODEL = """\
An ℓp-bounded perturbation of the pixels that enter the resize, by an attacker who knows everything (weights,
code, this card) but the draws. A persistent attacker on a video averages over draws, so the expectation over
draws is what counts, not a lucky frame."""

LABELS_SHOWN = 20  # of, perhaps, a thousand

LIMITS = """\
- A purifier that was trained on clean images is expected to fall to adaptive attacks, which differentiate
  through the purifier and average over its draws: robust accuracy near 0 % is the expected result. Randomness
  pays against attackers who transfer, query, or ignore the draws.
- Accuracy holds for images like the training images, at the engines' size; others get a label all the same.
- The score is a softmax, not a calibrated probability, and no sign that an image is free of attack."""


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
            f"When the bundle was written, every engine was within {BOUND:.0e} of its torch twin (pixels",
            "in [0, 1], logits) under the same draws; `edge-export verify` repeats that.",
            "",
            "## Threat model",
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


def _random_inputs(manifest: Manifest) -> Iterator[str]:
    for given in manifest.purifiers[0].random_inputs:
        yield f"- `{given.name}`: a uniform subset, {given.take} out of {given.size}, from the OS's CSPRNG."


def _measured(measured: tuple[dict[str, Any], ...]) -> Iterator[str]:
    if not measured:
        yield "Clean accuracy of these engines: not measured yet; training's figures are in the provenance."
        yield ""
        yield "Robustness ladder: not measured yet."
    for entry in measured:
        ladder = entry.get("ladder") or {}
        setting = [f"{key} {value}" for key, value in entry.items() if key != "ladder"]
        yield f"- {', '.join(setting)}"
        yield from (f"  - {attack}: {figure}" for attack, figure in ladder.items())
        if set(ladder) <= {"clean"}:
            yield "  - robustness ladder: not measured yet"


def _provenance(provenance: Mapping[str, Any]) -> Iterator[str]:
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            yield f"- {key}:"
            yield "  ```json"
            yield from ("  " + line for line in json.dumps(value, indent=1).splitlines())
            yield "  ```"
        else:
            yield f"- {key.replace('_', ' ')}: {value}"
