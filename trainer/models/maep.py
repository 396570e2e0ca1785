"""MAEP's purifier: a vision transformer that is a masked autoencoder.

A reconstruction from the abstract and reviews of the masked autoencoder purifier (arXiv 2501.16904), which
name a ViT masked autoencoder and a masking ratio of 0.5 in training and none at inference. What stands
here:

* The image is cut into N square patches. The encoder sees the kept ones alone; the decoder sees those, and
  a learned token in each masked place (He et al., 'Masked autoencoders are scalable vision learners', CVPR
  2022).
* The decoder's answer is a *change* of a kept patch, and the whole of a masked one. Its last layer starts
  at zero, so that an untrained purifier gives kept patches back as they are, and grey for masked ones.
* Which patches are kept is an argument: the random input of a draw. All of them kept is the paper's
  inference.
* An image of another size than the network's is purified tile by tile, all under the same draw, so that what
  was trained on small images serves large ones.

With 32 x 32 images, patches of 4 and the sizes below: 64 tokens, 1.20 M parameters, 83 M
multiply-accumulates (76 M of them in linear layers, the rest in attention).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from trainer.models import adapters
from trainer.models.purifier import PurifierBank, RandomSubset
from trainer.models.tiles import Tiles

GREY = 0.5  # what a masked patch starts from, and the origin of the pixels that the encoder sees


class MaskedAutoencoder(PurifierBank):
    """A purifier that encodes some of an image's patches and decodes all of them; K = 1.

    Args:
        image_size: side of the images, or of the tiles that they are cut into, in pixels; a multiple of
            ``patch``.
        patch: side of a patch in pixels, P.
        width: length of a token, D; a multiple of 4 and of ``heads``.
        encoder_blocks, decoder_blocks: transformer blocks on the kept patches, and on all.
        heads: of every attention.
        patches_kept: how many patches a draw keeps; all of them where it is None.
        adapter_rank: rank of the decoder's low-rank adapters; 0 for none.
        overlap: of neighbouring tiles, in pixels.
    """

    position: Tensor

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch: int = 4,
        width: int = 128,
        encoder_blocks: int = 4,
        decoder_blocks: int = 2,
        heads: int = 4,
        patches_kept: int | None = None,
        adapter_rank: int = 0,
        overlap: int = 0,
    ) -> None:
        super().__init__()
        side = image_size // patch
        self.side, self.overlap = image_size, overlap
        self.patch = patch
        self.random_input = RandomSubset(
            "keep", size=side**2, take=patches_kept or side**2, encoding="indices"
        )
        self.register_buffer("position", sinusoidal_positions(side, width))  # (N, D)
        self.embed = nn.Linear(3 * patch**2, width)
        self.encoder = nn.Sequential(
            *(Block(width, heads) for _ in range(encoder_blocks)), nn.LayerNorm(width)
        )
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.decoder = nn.Sequential(
            *(Block(width, heads) for _ in range(decoder_blocks)), nn.LayerNorm(width)
        )
        self.head = nn.Linear(width, 3 * patch**2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if adapter_rank:
            adapters.add(self.decoder, adapter_rank)

    @property
    def n_purifiers(self) -> int:
        return 1

    @property
    def n_patches(self) -> int:
        return len(self.position)

    def forward(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        """Purify.

        Args:
            images: (B, 3, H, W) in [0, 1], of any size.
            purifier: (B,) int64, all 0: there is but one.
            random_input: (B, K) int64, the patches of a tile that the encoder sees, numbered row by row, in
                increasing order.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        return self.reconstruct(images, random_input).clamp(0, 1)

    def reconstruct(self, images: Tensor, keep: Tensor) -> Tensor:
        """The purified images before they are clamped to [0, 1]: a loss has a gradient beyond it."""
        height, width = images.shape[2:]
        if (height, width) != (self.side, self.side):
            tiles = self.tiles(height, width)
            keep = keep[:, None].expand(-1, tiles.count, -1).reshape(-1, keep.shape[1])
            return tiles.join(self.reconstruct(tiles.cut(images), keep))
        pixels = patchify(images, self.patch) - GREY  # (B, N, 3P^2)
        tokens = self.encode(pixels, keep)
        is_kept = place(
            torch.ones_like(pixels[:, : keep.shape[1], :1]), keep, torch.zeros_like(pixels[:, :, :1])
        )
        return unpatchify(GREY + is_kept * pixels + self.decode(tokens, keep), self.patch)

    def tiles(self, height: int, width: int) -> Tiles:
        """What images of that size are cut into: one tile where it is the network's own."""
        return Tiles(height, width, self.side, self.overlap)

    def unclamped(self, images: Tensor, purifier: Tensor, random_input: Tensor) -> Tensor:
        """See ``PurifierBank``."""
        return self.reconstruct(images, random_input)

    def encode(self, pixels: Tensor, keep: Tensor) -> Tensor:
        """Tokens (B, K, D) of the kept patches among ``pixels`` (B, N, 3P^2)."""
        tokens: Tensor = self.encoder(self.embed(take(pixels, keep)) + self.position[keep])
        return tokens

    def decode(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """What to add to kept patches, and the content of masked ones, (B, N, 3P^2); ``tokens`` (B, K, D)."""
        masked = self.mask_token.to(tokens.dtype).expand(len(tokens), self.n_patches, -1)
        content: Tensor = self.head(self.decoder(place(tokens, keep, masked) + self.position))
        return content

    def single(self, index: int) -> SingleMaskedAutoencoder:
        """The purifier as it is exported, its adapters merged."""
        return SingleMaskedAutoencoder(self)


class SingleMaskedAutoencoder(nn.Module):
    """The purifier as it is exported: (image, keep) -> purified image, without a trace of adapters."""

    def __init__(self, purifier: MaskedAutoencoder) -> None:
        super().__init__()
        self.autoencoder = copy.deepcopy(purifier)
        adapters.merge(self.autoencoder)

    def forward(self, image: Tensor, keep: Tensor) -> Tensor:
        return self.autoencoder.reconstruct(image, keep).clamp(0, 1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on normalized tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        attended: Tensor = tokens + self.attention(self.norm1(tokens))
        changed: Tensor = attended + self.mlp(self.norm2(attended))
        return changed


class Attention(nn.Module):
    """Multi-head self-attention, written out so that runtimes find plain MatMul and Softmax in the graph."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        split = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, D / heads)
        scale = (width // self.heads) ** -0.5
        weights = ((query * scale) @ key.transpose(2, 3)).softmax(dim=-1)  # (B, heads, N, N)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).reshape(batch, count, width))
        return mixed


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) to patches row by row, (B, N, 3 P^2)."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch**2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The inverse of ``patchify``, for square images: (B, N, 3 P^2) to (B, 3, H, W)."""
    batch, count, values = patches.shape
    side, channels = math.isqrt(count), values // patch**2
    grid = patches.reshape(batch, side, side, channels, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side * patch, side * patch)


def take(tokens: Tensor, keep: Tensor) -> Tensor:
    """The kept ones of ``tokens`` (B, N, C), in the order of ``keep`` (B, K): (B, K, C)."""
    return tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))


def place(tokens: Tensor, keep: Tensor, rest: Tensor) -> Tensor:
    """``rest`` (B, N, C) with ``tokens`` (B, K, C) in the places ``keep`` (B, K); the inverse of ``take``."""
    return rest.scatter(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]), tokens)


def sinusoidal_positions(side: int, width: int) -> Tensor:
    """Fixed embeddings of a side x side grid, (N, D): sines and cosines of the row, then of the column."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies  # (side, D / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, D / 2)
    rows, columns = waves.repeat_interleave(side, dim=0), waves.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)
