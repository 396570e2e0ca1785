"""Torch eager as the benchmark's other side: the runtime's work, timed in a process of its own."""

from __future__ import annotations

import torch

from sdk.benchmark import run
from sdk.bundle import Bundle, default_bundle
from trainer.eager import classify, fastest_threads
from trainer.models.twin import read_twin


def test_the_benchmark_takes_turns_with_it() -> None:
    report = run(frames=50, frame_size=(64, 64), only=["eager"])
    assert report.not_measured == {}
    assert report.eager is not None
    assert report.eager.torch == str(torch.__version__)
    assert report.eager.torch_threads >= 1
    assert 0 < report.eager.eager.p50_ms <= report.eager.eager.p99_ms
    assert [check.name for check in report.checks] == ["torch eager / frame"]


def test_it_gives_the_twins_answer_under_a_fresh_draw() -> None:
    bundle = Bundle.open(default_bundle())
    defence = read_twin(bundle)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    index, score = classify(defence, image, generator)
    draw = defence.draw(1, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = defence(image, draw).softmax(-1)[0]
    assert index == int(expected.argmax())
    assert abs(score - float(expected.max())) < 1e-6
    scores = {classify(defence, image, generator)[1] for _ in range(5)}
    assert len(scores) > 1, "a draw is fresh for every frame"


def test_the_faster_thread_count_is_kept() -> None:
    before = torch.get_num_threads()
    try:
        many = fastest_threads(lambda: 1.0 / torch.get_num_threads())
        one = fastest_threads(lambda: float(torch.get_num_threads()))
        assert (one, torch.get_num_threads()) == (1, 1)
        assert many >= one
    finally:
        torch.set_num_threads(before)
