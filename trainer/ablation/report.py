"""The ablation's figures as Markdown: what each arm loses against the full one, and every run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.ablation.arms import FULL, Arm, Variant
from trainer.ablation.single import STEPS, Outcome
from trainer.robustness.evaluation.statistics import Z95, wilson

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's, by degrees of freedom
NAMES = {"clean": "clean accuracy", "pgd-margin": f"accuracy under PGD-{STEPS}"}


@dataclass(frozen=True)
class Difference:
    """What an arm's accuracy is above the full one's, in points, with a 95 % interval.

    Attributes:
        mean: over images and seeds.
        low, high: the interval's ends.
        by_seed: each seed's mean.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def is_clear(self) -> bool:
        """Whether the interval is on one side of 0."""
        return self.high < 0 or self.low > 0

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(arm: Sequence[Outcome], full: Sequence[Outcome], rung: str) -> Difference:
    """``arm`` less ``full``, paired: image by image, and seed by seed (an equal number, in the same order).

    The interval's half width is that over images, of the difference averaged over the seeds, and that over
    seeds, of the difference averaged over the images, at right angles. The latter is by Student's t, as few
    seeds say little of how much seeds vary; with one seed it is unknown, and left out.
    """
    gains = 100 * torch.stack([a.chances(rung) - f.chances(rung) for a, f in zip(arm, full, strict=True)])
    n_seeds, n_images = gains.shape
    by_seed = gains.mean(1)
    half = Z95 * float(gains.mean(0).std()) / math.sqrt(n_images) if n_images > 1 else 0.0
    if n_seeds > 1:
        t95 = T95[min(n_seeds - 1, len(T95)) - 1]
        half = math.hypot(half, t95 * float(by_seed.std()) / math.sqrt(n_seeds))
    mean = float(gains.mean())
    return Difference(mean, mean - half, mean + half, tuple(by_seed.tolist()))


def figures(outcome: Outcome) -> str:
    """One run's two figures, for a line of progress."""
    return ", ".join(f"{name} {_figure(outcome, rung)}" for rung, name in NAMES.items())


def render(variants: Sequence[Variant], outcomes: Sequence[Outcome], *, command: str) -> str:
    """The whole report; ``outcomes`` in the order of ``variants``, ``command`` as it may be typed again."""
    by_arm = {variant.arm.name: variant.arm for variant in variants}
    groups = {name: [o for o in outcomes if o.arm == name] for name in by_arm}
    gains = {
        name: {rung: difference(group, groups[FULL], rung) for rung in NAMES}
        for name, group in groups.items()
        if name != FULL
    }
    lines = [
        *_head(variants[0], outcomes, command),
        *_arms(by_arm.values(), groups, gains),
        *_sentences(by_arm, gains),
        *_runs(outcomes),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(first: Variant, outcomes: Sequence[Outcome], command: str) -> Iterator[str]:
    config = first.config
    n_images, n_seeds = len(outcomes[0].right["clean"]), len({outcome.seed for outcome in outcomes})
    yield f"# Ablation of {config.name}"
    yield ""
    yield f"    {command}"
    yield ""
    yield (
        f"Every arm is the same config but for its overrides, trained for {config.optimizer.epochs} epochs "
        f"by the recipe {config.recipe.__struct_config__.tag!r} on {_several(n_seeds, 'seed')}. "
        f"Accuracy is expected accuracy under fresh draws on the first {n_images} test images of "
        f"{config.data.name}; PGD-{STEPS} climbs the margin of the mean defence, every purifier and every "
        "classifier in each step, with the true gradient, l-infinity, eps 8/255. Attacks and draws have the "
        "same seed for all."
    )
    yield ""


def _arms(
    arms: Iterable[Arm], groups: dict[str, list[Outcome]], gains: dict[str, dict[str, Difference]]
) -> Iterator[str]:
    yield "## Without each mechanism"
    yield ""
    titles = NAMES.values()
    header = ["arm", "`--set`", *titles, *(f"{title}, points more than {FULL}" for title in titles)]
    rows = []
    for arm in arms:
        means = [sum(float(o.chances(rung).mean()) for o in groups[arm.name]) for rung in NAMES]
        against = [str(gain) for gain in gains.get(arm.name, {}).values()] or ["–"] * len(NAMES)
        switches = " ".join(f"`{override}`" for override in arm.overrides) or "–"
        shares = [f"{100 * mean / len(groups[arm.name]):.1f} %" for mean in means]
        rows.append([arm.name, switches, *shares, *against])
    yield from _table(header, rows)
    n_seeds = len(groups[FULL])
    seeds = (
        "and for how much seeds vary, of which so few seeds say little (Student's t)"
        if n_seeds > 1
        else "of this one seed; what seeds vary by is not in them"
    )
    yield (
        f"Figures are means over {_several(n_seeds, 'seed')}. "
        f"Intervals are of 95 %, paired image by image, {seeds}."
    )
    yield ""


def _sentences(arms: dict[str, Arm], gains: dict[str, dict[str, Difference]]) -> Iterator[str]:
    """What the figures say of each arm, and of the mechanisms beside each other where one clearly adds."""
    for name, by_rung in gains.items():
        clauses = ", and ".join(f"{NAMES[rung]} {_verb(gain)}" for rung, gain in by_rung.items())
        yield f"- Without {arms[name].lacks}, {clauses}."
    for rung, title in NAMES.items():
        losses = {name: g[rung] for name, g in gains.items() if arms[name].is_mechanism and g[rung].is_clear}
        carried = sorted((g.mean, arms[name].lacks) for name, g in losses.items() if g.mean < 0)
        if carried:
            parts = ", ".join(f"{lacks} {-mean:.1f}" for mean, lacks in carried)
            yield f"- What a single mechanism adds to {title}, in points, the most first: {parts}."
    yield ""


def _verb(gain: Difference) -> str:
    each = f"; by seed {', '.join(f'{mean:+.1f}' for mean in gain.by_seed)}" if len(gain.by_seed) > 1 else ""
    if not gain.is_clear:
        return f"changes by no more than these runs can tell ({gain} points{each})"
    return f"{'falls' if gain.mean < 0 else 'rises'} ({gain} points{each})"


def _runs(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "## Every run"
    yield ""
    header = [
        "arm",
        "seed",
        *NAMES.values(),
        "validation, PGD-10",
        "images/s",
        "minutes: training",
        "evaluation",
    ]
    rows = [
        [
            outcome.arm,
            str(outcome.seed),
            *(_figure(outcome, rung) for rung in NAMES),
            f"{100 * outcome.validation['robust']:.1f} %",
            *_speed(outcome),
            f"{outcome.evaluation_minutes:.1f}",
        ]
        for outcome in outcomes
    ]
    yield from _table(header, rows)
    threads = " or ".join(str(n) for n in sorted({outcome.threads for outcome in outcomes}))
    yield f"Intervals are Wilson's at 95 %. Threads of a run: {threads}."


def _figure(outcome: Outcome, rung: str) -> str:
    chances = outcome.chances(rung)
    return str(wilson(float(chances.mean()), len(chances)))


def _speed(outcome: Outcome) -> tuple[str, str]:
    if outcome.timing is None:
        return "–", "–"
    return f"{outcome.timing.images_per_s:.0f}", f"{outcome.timing.minutes:.1f}"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
