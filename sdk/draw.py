"""Random draws: a purifier, a classifier and random inputs, chosen independently for every frame.

The bytes come from the operating system's CSPRNG, so that an attacker who has seen any number of draws knows
nothing of the next. A seed replaces them by a reproducible stream, for tests, and marks every draw from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import shake_256
from itertools import count

import numpy as np
import numpy.typing as npt

from sdk.bundle import Engine, Manifest, RandomInput
from sdk.errors import UsageError

Words = npt.NDArray[np.uint64]
WORD_BITS = 64


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value for == to return
class Draw:
    """One random choice for one frame.

    Attributes:
        purifier, purifier_id: index and id of the purifier drawn.
        classifier, classifier_id: index and id of the classifier drawn, independent of the purifier.
        random_inputs: the purifier's random inputs by name, read-only arrays of the shapes the bundle states.
        seeded: True if the choice came from a seed and so protects nothing.
    """

    purifier: int
    purifier_id: str
    classifier: int
    classifier_id: str
    random_inputs: Mapping[str, np.ndarray]
    seeded: bool


class Drawer:
    """Draws for one bundle.

    Args:
        manifest: names the engines and their random inputs.
        seed: any integer, for reproducible tests; None, the default, draws from ``os.urandom``.

    Raises:
        UsageError: the seed is not an integer.
    """

    def __init__(self, manifest: Manifest, seed: int | None = None) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise UsageError(f"seed: expected an integer or None, got {seed!r}")
        self.seeded = seed is not None
        self._read: Callable[[int], bytes] = os.urandom if seed is None else seeded_bytes(seed)
        self._purifiers = manifest.purifiers
        self._classifiers = manifest.classifiers
        keys = max(sum(spec.size for spec in purifier.random_inputs) for purifier in manifest.purifiers)
        self._words_per_draw = 2 + keys  # one picks the purifier, one the classifier, the rest rank positions

    def draw(self, votes: int = 1) -> tuple[Draw, ...]:
        """``votes`` independent draws, all from one block of random bytes."""
        block = self._read(votes * self._words_per_draw * 8)
        words = np.frombuffer(block, "<u8").reshape(votes, self._words_per_draw)
        return tuple(self._one(row) for row in words)

    def _one(self, words: Words) -> Draw:
        purifier, purifier_engine = self._pick(self._purifiers, words[0])
        classifier, classifier_engine = self._pick(self._classifiers, words[1])
        random_inputs, start = {}, 2
        for spec in purifier_engine.random_inputs:
            random_inputs[spec.name] = random_subset(spec, words[start : start + spec.size])
            start += spec.size
        return Draw(
            purifier=purifier,
            purifier_id=purifier_engine.id,
            classifier=classifier,
            classifier_id=classifier_engine.id,
            random_inputs=random_inputs,
            seeded=self.seeded,
        )

    def _pick(self, engines: tuple[Engine, ...], word: np.uint64) -> tuple[int, Engine]:
        """One of ``engines``, each equally likely, by Lemire's method (arXiv 1805.10941, algorithm 5).

        2^64 words don't divide evenly among n engines: the 2^64 mod n words left over are read again.
        """
        n = len(engines)
        product = int(word) * n
        while product % 2**WORD_BITS < 2**WORD_BITS % n:
            product = int.from_bytes(self._read(8), "little") * n
        index = product >> WORD_BITS
        return index, engines[index]


def random_subset(spec: RandomInput, keys: Words) -> np.ndarray:
    """The positions of the ``spec.take`` smallest among ``keys``, which are ``spec.size`` random words.

    All subsets are equally likely but for ties, whose probability is below size^2 / 2^65: for 200 positions
    one draw in 10^15.
    """
    return encode_subset(spec, keys.argsort()[: spec.take])


def encode_subset(spec: RandomInput, positions: npt.NDArray[np.intp]) -> np.ndarray:
    """``positions`` as the engine takes them: a 0/1 mask ``(1, size)`` or sorted indices ``(1, take)``."""
    if spec.encoding == "mask":
        array = np.zeros(spec.shape, spec.dtype)
        array[0, positions] = 1
    else:
        array = np.sort(positions).astype(spec.dtype).reshape(spec.shape)
    array.setflags(write=False)
    return array


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    """A reproducible stand-in for ``os.urandom``, the same on every machine.

    Its n-th call, from 0, returns the first bytes of SHAKE-256 of the text ``edge-purify draw SEED n``.
    """
    calls = count()
    return lambda size: shake_256(f"edge-purify draw {seed} {next(calls)}".encode()).digest(size)
