"""What drawing at random adds: A_mix less the mean A_d.

A_mix is the accuracy that fresh draws keep under attack, and A_d what a member d keeps that never changes.
The least over perturbations of a mean is never below the mean of the least, so against perfect attacks the
difference can't be negative; it is what an attacker loses by not knowing the draw, and nothing else that the
defence does enters it.

Attacks aren't perfect, so both sides face the same set of them, the one on the mean and those on each member,
and per image the strongest counts: for the mixture one for all draws, for the members each its own. Were a
side given more attacks than the other, their number would pass for a gain.

Both are measured on the twin, where a member can be held fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.data import keyed_generator
from trainer.models import Defence
from trainer.robustness.attacks.ball import Ball
from trainer.robustness.attacks.gradient import pgd
from trainer.robustness.attacks.losses import margin
from trainer.robustness.defences.judges import Key
from trainer.robustness.defences.surrogates import BankMean
from trainer.robustness.evaluation.ladder import Climber, climb_all
from trainer.robustness.evaluation.report import Mixture
from trainer.robustness.evaluation.statistics import chance, paired, wilson
from trainer.robustness.evaluation.steps import Batch, Step
from trainer.robustness.evaluation.work import Piece, Tensors, Work, piece_name

PURIFIERS = 4  # at most, each with every classifier
BATCH = 256


class Member:
    """One sub-model: purifier, classifier and random input are fixed. As a judge, it answers for itself."""

    says = "one member of the twin"

    def __init__(self, bank: BankMean, index: int, seed: int) -> None:
        self.bank, self.index, self.seed, self.n_classes = bank, index, seed, bank.n_classes
        self.mean = bank.mean

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.bank.member(self.index, images, torch.Generator().manual_seed(self.seed))

    def members(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self(images)[None]

    @torch.inference_mode()
    def probabilities(self, images: Tensor, *, draws: int, key: Key, first: int = 0) -> Tensor:
        return self(images).exp().expand(draws, -1, -1)

    def raw_probabilities(self, images: Tensor) -> Tensor:
        result: Tensor = self.bank.defence.classifier.all_logits(images).softmax(-1)
        return result


@dataclass(frozen=True)
class Setting:
    """How the mixture and its members are compared.

    Attributes:
        ball, steps: of the attack on each member, PGD on the margin.
        draws: of the random inputs, at least, over which the whole bank is averaged.
        seed: of the draws, and of what the members hold fixed.
    """

    ball: Ball
    steps: int
    draws: int
    seed: int


def measure(twin: Defence, attacked: Tensor, climber: Climber, setting: Setting) -> Mixture:
    """Compare the mixture with up to ``PURIFIERS`` of its purifiers before each of its classifiers.

    Args:
        attacked: (N, 3, H, W), the attack on the mixture.
        climber: attacks the N images that it was made from, and has the result judged.
    """
    labels, draws, n_classes = climber.images.targets, setting.draws, len(climber.images.labels)
    bank = BankMean(twin, n_classes=n_classes, samples=min(PURIFIERS, twin.n_purifiers))
    fixed = [Member(bank, index, setting.seed) for index in range(bank.n_members)]
    on_members = climb_all(
        [
            (replace(climber, judge=member, draws=1), _on_member(member, setting, len(labels)))
            for member in fixed
        ]
    )
    attacks = [attacked, *(outcome.adversarial for outcome in on_members)]
    whole = BankMean(twin, n_classes=n_classes, samples=max(draws, twin.n_purifiers))
    mixed = _under_the_strongest(whole, attacks, labels, setting.seed, climber.work)
    alone = torch.stack(_least_chances(fixed, attacks, labels, climber.work)).mean(0)
    return Mixture(
        members=bank.n_members,
        mixed=wilson(float(mixed.mean()), len(labels)),
        alone=wilson(float(alone.mean()), len(labels)),
        gain=paired(mixed, alone),
    )


def _on_member(member: Member, setting: Setting, images: int) -> Step:
    """The margin attack on one member, which is settled at the first doubtless loss, as nothing is drawn."""

    def attack(given: Batch) -> Tensor:
        return pgd(
            member,
            given.images,
            given.labels,
            ball=setting.ball,
            steps=setting.steps,
            generator=given.generator,
            falling=True,
            keep_best=True,
            loss=margin,
            patience=1,
        )

    return Step(f"member {member.index}", attack, images, BATCH, made=(setting.ball, setting.steps))


def _least_chances(
    members: Sequence[Member], attacks: Sequence[Tensor], labels: Tensor, work: Work
) -> list[Tensor]:
    """For each member, per image, whether it is right under every one of the attacks, (B,)."""
    pieces = []
    for member in members:

        def ask(member: Member = member) -> Tensors:
            answers = [member.probabilities(images, draws=1, key=()).argmax(-1) for images in attacks]
            return {"least": torch.stack([chance(answer, labels) for answer in answers]).amin(0)}

        made = (member.index, member.seed, labels.tolist())
        pieces.append(Piece(piece_name("mixture member", torch.stack(list(attacks)), *made), ask))
    return [done["least"] for done in work.do(pieces)]


def _under_the_strongest(
    whole: BankMean, attacks: Sequence[Tensor], labels: Tensor, seed: int, work: Work
) -> Tensor:
    """Per image, the chance under the attack that leaves the least, chosen on other draws, (B,)."""
    left = torch.stack(_exact_chances(whole, attacks, labels, (seed, "mixture choose"), work))
    strongest = torch.stack(list(attacks))[left.argmin(0), torch.arange(len(labels))]
    (found,) = _exact_chances(whole, [strongest], labels, (seed, "mixture"), work)
    return found


def _exact_chances(
    bank: BankMean, attacks: Sequence[Tensor], labels: Tensor, key: Key, work: Work
) -> list[Tensor]:
    """For each attack, per image, the share of all sub-models that are right, each with inputs of its own."""
    size = max(1, BATCH // bank.samples)
    pieces = []
    for images in attacks:
        for place, (pixels, truth) in enumerate(
            zip(torch.split(images, size), torch.split(labels, size), strict=True)
        ):

            @torch.inference_mode()
            def ask(pixels: Tensor = pixels, truth: Tensor = truth, place: int = place) -> Tensors:
                said = bank.members(pixels, keyed_generator(*key, place)).argmax(-1)
                return {"chance": (said == truth).double().mean(0)}

            made = (bank.samples, key, place, truth.tolist())
            pieces.append(Piece(piece_name("mixture", pixels, *made), ask))
    parts = [done["chance"] for done in work.do(pieces)]
    n_parts = len(parts) // len(attacks)
    return [torch.cat(parts[first : first + n_parts]) for first in range(0, len(parts), n_parts)]
