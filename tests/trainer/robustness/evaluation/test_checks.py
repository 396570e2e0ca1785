"""Each check fails on the sign that it is there for, and passes where that sign is absent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainer.robustness.evaluation.diagnostics.checks import Evidence, Late, Loss, weigh

SOUND = Evidence(
    pgd=0.04,
    large_eps=0.0,
    more_steps=0.035,
    more_samples=0.04,
    one_draw=0.1,
    others={"blind": 0.6, "bpda-purifier": 0.2},
    cosine=0.8,
    clean_trained=True,
    losses={"margin": Loss(0.08, 0.04, is_counted=True)},
    late={"square": Late(0.04, 0.03)},
)


def failed(evidence: Evidence) -> list[str]:
    return [check.name for check in weigh(evidence) if check.passed is False]


def test_sound_evidence_passes() -> None:
    assert failed(SOUND) == []
    assert [check.found for check in weigh(SOUND) if check.passed is None] == ["0.80"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"large_eps": 0.021}, "a huge eps leaves nothing"),
        ({"more_steps": 0.051}, "twice the steps don't help the defence"),
        ({"more_samples": 0.025}, "twice the samples change nothing"),
        ({"more_samples": 0.055}, "twice the samples change nothing"),
        ({"others": {"blind": 0.02}}, "the true gradient is no weaker than blind"),
        ({"others": {"bpda-purifier": 0.02}}, "the true gradient is no weaker than bpda-purifier"),
        (
            {"losses": {"margin": Loss(0.06, 0.04, is_counted=False)}},
            "cross-entropy alone doesn't flatter the figure: margin",
        ),
        (
            {"losses": {"apgd-t": Loss(0.06, 0.04, is_counted=False)}},
            "cross-entropy alone doesn't flatter the figure: apgd-t",
        ),
        ({"late": {"square": Late(0.04, 0.025)}}, "square finds nothing that the rungs before it missed"),
        ({"late": {"autoattack": Late(0.04, 0)}}, "autoattack finds nothing that the rungs before it missed"),
        ({"one_draw": 0.15}, "an attack on one draw is nearly as strong"),
        ({"pgd": 0.11, "more_steps": 0.11, "more_samples": 0.11}, "clean training gives no robustness"),
    ],
)
def test_each_sign_fails_its_check(change: dict[str, object], name: str) -> None:
    assert failed(replace(SOUND, **change)) == [name]


def test_adversarial_training_may_be_robust() -> None:
    robust = replace(
        SOUND, pgd=0.4, more_steps=0.4, more_samples=0.4, clean_trained=False, others={}, one_draw=0.4
    )
    assert failed(robust) == []
