"""How each rung is made, in words, for the report. Nothing here decides what an attack finds."""

from __future__ import annotations

CLEAN = "the images as they are"
FALLING = "falling steps, the best iterate kept"
PLAIN = "steps"
WAYS = {
    "full_gradient": "true gradient",
    "identity_shrinkage": "gradient past the shrinkage (BPDA)",
    "identity_purifier": "gradient past the purifier (BPDA)",
}

SURVIVORS_RUNGS = {
    "apgd-t": "APGD-T, {} targets of {} steps, each on the mean of {} fixed passes through the purifiers",
    "arc": "ARC, {} rounds over every pair of purifier and classifier, or until none is right",
    "square": "Square, {} queries, each the mean of {} draws, from the strongest attack above on",
    "autoattack": "AutoAttack, standard, on the mean of {} fixed purifier passes and all classifiers",
}


def gradient(loss: str, steps: int, samples: int, way: str) -> str:
    return (
        f"PGD on the {loss}, {steps} {_steps(loss)}, each averaged over {samples} purifier passes and all "
        f"classifiers, {WAYS[way]}, stopping on an image that no sub-model gets right"
    )


def one_draw(steps: int) -> str:
    return f"PGD on the margin, {steps} {FALLING}, on one fixed draw"


def ordinary(steps: int, name: str) -> str:
    return f"PGD, {steps} steps on the classifiers of {name} alone, then shown to the defence"


def blind(steps: int) -> str:
    return f"PGD, {steps} steps on the classifiers alone, then shown to the whole defence"


def transfer(steps: int) -> str:
    return f"the margin attack on the FP32 twin, {steps} {FALLING}, then shown to these engines"


def on_survivors(rung: str, made: tuple[int, ...], survivors: int | None) -> str:
    """Of a rung on so many survivors, every one where it is None; ``made`` are the attack's settings."""
    whom = "every survivor" if survivors is None else f"the first {survivors} survivors"
    return f"{SURVIVORS_RUNGS[rung].format(*made)}, on {whom} of the rungs above"


def _steps(loss: str) -> str:
    return FALLING if loss == "margin" else PLAIN
