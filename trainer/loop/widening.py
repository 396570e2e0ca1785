"""Net2Net: widen a trained classifier without changing its function (Chen et al., ICLR 2016, 1511.05641).

Channels are copied until there are enough; the weights that read a copied channel are divided by the number
of its copies. A little noise on the convolutions tells the copies apart, or they would get the same gradients
for good.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdk.errors import UsageError
from trainer.data import keyed_generator
from trainer.models.classifier import DiverseClassifier, ResidualBlock

State = dict[str, Tensor]


def widened(
    narrow: DiverseClassifier, wide: DiverseClassifier, *, noise: float, seed: int, where: str
) -> State:
    """State for ``wide`` that computes what ``narrow`` computes, but for the noise.

    Both are edge networks with the same number of stages, blocks and members.

    Args:
        noise: standard deviation over that of each convolution's weight; 0 keeps the function to rounding.
        seed: of the copied channels and the noise.
        where: heads an error.

    Raises:
        UsageError: one of them is no edge network, or ``wide`` is narrower somewhere or deeper.
    """
    _check(narrow, wide, where)
    return _Widening(narrow, wide, noise, keyed_generator(seed, "widen")).state()


class _Widening:
    """Fills in the state of the wide network, layer by layer."""

    def __init__(
        self, narrow: DiverseClassifier, wide: DiverseClassifier, noise: float, generator: torch.Generator
    ) -> None:
        self.narrow, self.wide, self.noise, self.generator = narrow, wide, noise, generator
        self.old = narrow.state_dict()
        self.new = dict(self.old)  # mean, std and the norms' counters stay

    @torch.no_grad()
    def state(self) -> State:
        trunk = self.narrow.trunk
        assert isinstance(trunk, nn.Sequential)
        channels = self._channels("trunk.0.weight")
        self._conv("trunk.0", channels, None)
        self._norm("trunk.1", channels)
        for k in range(3, len(trunk)):  # after convolution, norm and ReLU
            channels = self._stage(f"trunk.{k}", channels)
        for j in range(self.narrow.n_classifiers):
            last = self._stage(f"members.{j}.0", channels)
            self.new[f"members.{j}.3.weight"] = self._read(f"members.{j}.3.weight", None, last)
        return self.new

    def _stage(self, name: str, channels: Tensor) -> Tensor:
        """Widen the blocks of a stage that reads ``channels``; returns the channels that it gives."""
        given = self._channels(f"{name}.0.conv2.weight")
        if f"{name}.0.shortcut.0.weight" not in self.old:
            given = channels  # added to the block's input, so copied alike
        k = 0
        while f"{name}.{k}.conv1.weight" in self.old:
            self._block(f"{name}.{k}", given, channels)
            channels, k = given, k + 1
        return given

    def _block(self, name: str, given: Tensor, channels: Tensor) -> None:
        inner = self._channels(f"{name}.conv1.weight")
        self._conv(f"{name}.conv1", inner, channels)
        self._norm(f"{name}.norm1", inner)
        self._conv(f"{name}.conv2", given, inner)
        self._norm(f"{name}.norm2", given)
        if f"{name}.shortcut.0.weight" in self.old:
            self._conv(f"{name}.shortcut.0", given, channels)
            self._norm(f"{name}.shortcut.1", given)

    def _channels(self, name: str) -> Tensor:
        """For each output channel of the wide weight ``name``, the narrow one that it copies, (W,) int64."""
        count, wanted = len(self.old[name]), len(self.wide.state_dict()[name])
        copies = [torch.arange(count)]
        while (missing := wanted - sum(map(len, copies))) > 0:
            copies.append(torch.randperm(count, generator=self.generator)[:missing])
        return torch.cat(copies)

    def _conv(self, name: str, outputs: Tensor, inputs: Tensor | None) -> None:
        weight = self._read(f"{name}.weight", outputs, inputs)
        disturbance = torch.randn(weight.shape, generator=self.generator)
        self.new[f"{name}.weight"] = weight + self.noise * weight.std() * disturbance

    def _norm(self, name: str, outputs: Tensor) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.new[f"{name}.{part}"] = self.old[f"{name}.{part}"][outputs]

    def _read(self, name: str, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
        """The weight with copied outputs, and the copies of each input sharing what the input had."""
        weight: Tensor = self.old[name]
        if outputs is not None:
            weight = weight[outputs]
        if inputs is not None:
            copies = torch.bincount(inputs, minlength=weight.shape[1]).to(weight.dtype)
            shape = (1, -1, *[1] * (weight.dim() - 2))
            weight = (weight / copies.view(*shape))[:, inputs]
        return weight


def _check(narrow: DiverseClassifier, wide: DiverseClassifier, where: str) -> None:
    if not all(_is_edge_network(classifier) for classifier in (narrow, wide)):
        raise UsageError(f"{where}: only classifiers of the kind 'edge' can be widened")
    old, new = narrow.state_dict(), wide.state_dict()
    if old.keys() != new.keys() or narrow.n_classes != wide.n_classes:
        raise UsageError(
            f"{where}: it has other numbers of blocks, stages, members or classes than the config",
            hint="widening changes model.classifier.widths alone",
        )
    wrong = [name for name, value in old.items() if value.dim() and len(value) > len(new[name])]
    if wrong:
        raise UsageError(
            f"{where}: {wrong[0]}: expected at most {len(new[wrong[0]])} channels, got {len(old[wrong[0]])}",
            hint="give larger model.classifier.widths",
        )


def _is_edge_network(classifier: DiverseClassifier) -> bool:
    trunk = classifier.trunk
    return (
        isinstance(trunk, nn.Sequential)
        and len(trunk) > 3
        and isinstance(trunk[3], nn.Sequential)
        and isinstance(trunk[3][0], ResidualBlock)
        and isinstance(classifier.members[0], nn.Sequential)
        and isinstance(classifier.members[0][-1], nn.Linear)
        and isinstance(trunk[0], nn.Conv2d)
        and trunk[0].kernel_size == (6, 6)
    )
