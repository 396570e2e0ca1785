"""Draws are uniform, independent, unpredictable without a seed, and reproducible and marked with one."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

import sdk
from sdk.bundle import Engine, File, Image, Manifest, RandomInput
from sdk.draw import Draw, Drawer, random_subset
from sdk.errors import UsageError

FILE = File("x", "0" * 64)
MASK = RandomInput("atom_mask", "subset", 96, 86, "mask", "float32", (1, 96))
KEEP = RandomInput("keep", "subset", 64, 16, "indices", "int64", (1, 16))
N = 10_000


def manifest(
    n_purifiers: int = 4, n_classifiers: int = 2, inputs: tuple[RandomInput, ...] = (MASK,)
) -> Manifest:
    return Manifest(
        schema=1,
        name="draws",
        family="ren",
        labels=FILE,
        image=Image(32, 32),
        purifiers=tuple(Engine(f"purifier-{i:02d}", {"fp32": FILE}, inputs) for i in range(n_purifiers)),
        classifiers=tuple(Engine(f"classifier-{j:02d}", {"fp32": FILE}) for j in range(n_classifiers)),
        golden=FILE,
    )


def draws(n: int, seed: int | None, made_for: Manifest) -> list[Draw]:
    drawer = Drawer(made_for, seed)
    return [drawer.draw()[0] for _ in range(n)]


def p_uniform(observed: np.ndarray) -> float:
    """Pearson's test that every cell is equally likely."""
    expected = observed.sum() / len(observed)
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), len(observed) - 1))


def p_uniform_subset(kept: np.ndarray, n: int, take: int) -> float:
    """The same test for how often each of ``size`` positions is among ``take`` drawn without replacement.

    With p = take / size the counts have covariance n p (1 - p) size / (size - 1) times the centring matrix:
    one position drawn makes the others rarer.  So the sum of squares over n p (1 - p) size / (size - 1) is
    chi-squared with size - 1 degrees of freedom; Pearson's own is smaller by (size - take) / (size - 1).
    """
    size = len(kept)
    p = take / size
    variance = n * p * (1 - p) * size / (size - 1)
    return float(chi2.sf(((kept - n * p) ** 2 / variance).sum(), size - 1))


# The seeded draws are the same on every run, so p > 0.001 can't fail by chance; the operating system's can,
# with the probability that is the bound: 3 tests of 10^-5.
@pytest.mark.parametrize(("seed", "bound"), [(1, 1e-3), (2, 1e-3), (None, 1e-5)])
def test_10000_draws_are_uniform(seed: int | None, bound: float) -> None:
    made = draws(N, seed, manifest())
    purifiers = np.bincount([draw.purifier for draw in made], minlength=4)
    classifiers = np.bincount([draw.classifier for draw in made], minlength=2)
    kept = sum(draw.random_inputs["atom_mask"][0] for draw in made)
    assert p_uniform(purifiers) > bound
    assert p_uniform(classifiers) > bound
    assert p_uniform_subset(np.asarray(kept), N, MASK.take) > bound


def test_purifier_and_classifier_are_independent() -> None:
    made = draws(N, 3, manifest())
    pairs = np.bincount([2 * draw.purifier + draw.classifier for draw in made], minlength=8)
    assert p_uniform(pairs) > 1e-3


def test_every_subset_is_equally_likely_whichever_the_encoding() -> None:
    spec = RandomInput("keep", "subset", 5, 2, "indices", "int64", (1, 2))
    made = draws(N, 4, manifest(inputs=(spec,)))
    counts = Counter(tuple(draw.random_inputs["keep"][0].tolist()) for draw in made)
    assert sorted(counts) == list(combinations(range(5), 2))
    assert p_uniform(np.array(list(counts.values()))) > 1e-3


def test_the_tests_statistic_can_fail() -> None:
    skewed = np.full(96, N * 86 / 96)
    skewed[:48] += 60  # 48 positions kept 60 of 10,000 times too often, 0.7 %
    skewed[48:] -= 60
    assert p_uniform_subset(skewed, N, 86) < 1e-3


def test_random_inputs_are_as_the_bundle_states() -> None:
    for draw in draws(50, None, manifest(inputs=(MASK, KEEP))):
        mask, keep = draw.random_inputs["atom_mask"], draw.random_inputs["keep"]
        assert (mask.shape, mask.dtype, mask.sum()) == ((1, 96), np.float32, 86)
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert (keep.shape, keep.dtype) == ((1, 16), np.int64)
        assert (np.diff(keep[0]) > 0).all()
        assert 0 <= keep.min() <= keep.max() < 64
        with pytest.raises(ValueError, match="read-only"):
            mask[0, 0] = 1


@pytest.mark.parametrize("size", [1, 2, 96])
def test_taking_all_leaves_no_choice(size: int) -> None:
    all_kept = RandomInput("atom_mask", "subset", size, size, "mask", "float32", (1, size))
    all_listed = RandomInput("keep", "subset", size, size, "indices", "int64", (1, size))
    keys = np.frombuffer(os.urandom(8 * size), "<u8")
    assert random_subset(all_kept, keys).tolist() == [[1.0] * size]
    assert random_subset(all_listed, keys).tolist() == [list(range(size))]


def test_engines_of_one_bundle_may_take_different_random_inputs() -> None:
    mixed = manifest(n_purifiers=2)
    mixed = Manifest(
        **{name: getattr(mixed, name) for name in mixed.__struct_fields__ if name != "purifiers"},
        purifiers=(mixed.purifiers[0], Engine("plain", {"fp32": FILE})),
    )
    made = draws(40, 5, mixed)
    assert {(draw.purifier_id, tuple(draw.random_inputs)) for draw in made} == {
        ("purifier-00", ("atom_mask",)),
        ("plain", ()),
    }


def test_two_random_inputs_of_one_engine_are_independent() -> None:
    twins = tuple(RandomInput(name, "subset", 96, 48, "mask", "float32", (1, 96)) for name in ("a", "b"))
    for draw in draws(20, None, manifest(inputs=twins)):  # P(two masks agree) is 1 of C(96, 48) > 10^27
        assert not np.array_equal(draw.random_inputs["a"], draw.random_inputs["b"])


def values(draw: Draw) -> tuple[int, int, bytes]:
    return draw.purifier, draw.classifier, draw.random_inputs["atom_mask"].tobytes()


def test_two_runs_differ_without_a_seed_and_agree_with_one() -> None:
    unseeded = [draws(20, None, manifest()) for _ in range(2)]
    seeded = [draws(20, 7, manifest()) for _ in range(2)]
    assert [values(d) for d in unseeded[0]] != [values(d) for d in unseeded[1]]
    assert [values(d) for d in seeded[0]] == [values(d) for d in seeded[1]]
    assert [values(d) for d in seeded[0]] != [values(d) for d in draws(20, 8, manifest())]
    assert len({values(d) for d in seeded[0]}) == 20
    assert all(d.seeded for d in seeded[0])
    assert not any(d.seeded for d in unseeded[0])


def test_votes_are_distinct_draws_from_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def counted(size: int, urandom: Callable[[int], bytes] = os.urandom) -> bytes:
        reads.append(size)
        return urandom(size)

    monkeypatch.setattr(os, "urandom", counted)
    made = Drawer(manifest()).draw(votes=5)
    assert len({values(draw) for draw in made}) == 5
    assert reads == [5 * (2 + 96) * 8]


def test_without_a_seed_nothing_but_the_operating_systems_bytes_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = os.urandom(98 * 8)
    monkeypatch.setattr(os, "urandom", lambda size: block[:size])
    first, second = Drawer(manifest()), Drawer(manifest())
    assert values(first.draw()[0]) == values(first.draw()[0]) == values(second.draw()[0])


def test_a_word_that_would_bias_the_choice_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2^64 = 1 mod 3, so of 2^64 words exactly one, 0, is left over among three engines
    answers = iter([bytes(98 * 8), bytes(8), (2**64 - 1).to_bytes(8, "little")])
    monkeypatch.setattr(os, "urandom", lambda size: next(answers))
    draw = Drawer(manifest(n_purifiers=3)).draw()[0]
    assert draw.purifier == 2
    assert draw.classifier == 0  # 2 divides 2^64: nothing is left over, 0 counts


@pytest.mark.parametrize("seed", ["7", 7.0, True])
def test_a_seed_is_an_integer(seed: object) -> None:
    with pytest.raises(UsageError, match="seed: expected an integer or None, got"):
        Drawer(manifest(), seed)  # type: ignore[arg-type]


def test_no_module_of_the_runtime_uses_a_seedable_generator() -> None:
    for path in Path(sdk.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not _names_a_generator(node), f"{path}:{node.lineno}"


def _names_a_generator(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(
            alias.name.split(".")[0] == "random" or "numpy.random" in alias.name for alias in node.names
        )
    if isinstance(node, ast.ImportFrom):
        return node.module == "random" or any(
            "numpy.random" in f"{node.module}.{alias.name}" for alias in node.names
        )
    return isinstance(node, ast.Attribute) and node.attr in {"random", "randu", "randn", "RNG"}


@pytest.mark.parametrize(
    "code", ["import random", "from random import choice", "import numpy.random", "numpy.random.rand(3)"]
)
def test_that_check_sees_a_generator(code: str) -> None:
    assert any(_names_a_generator(node) for node in ast.walk(ast.parse(code)))
