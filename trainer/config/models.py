"""The ``model`` section: the defence's shape, which a bundle stores so that its twin can be rebuilt."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trainer.config.conventions import Conventions
from trainer.config.section import Few, Many, Positive, Section, Side, Sides, Weight
from trainer.image_size import height_and_width

MAX_CODE = 1 << 26  # values of one image's code: 256 MiB


class RenPurifier(Section, frozen=True):
    """REN's denoiser; see ``trainer.models.ren``."""

    count: Few = 4
    atoms: Many = 96
    atoms_per_encoder: Many = 80
    atoms_kept: Many = 86  #: atoms that a draw's random mask leaves in place
    patch: Literal[4, 8] = 4
    iterations: Few = 2
    threshold: Weight = 0.01  #: initial, learned from there on; 0: no shrinkage, so a linear code

    def __post_init__(self) -> None:
        for key in ("atoms_per_encoder", "atoms_kept"):
            value = getattr(self, key)
            if value > self.atoms:
                raise ValueError(f"{key}: expected at most atoms = {self.atoms}, got {value}")


class MaepPurifier(Section, frozen=True):
    """MAEP's masked autoencoder; see ``trainer.models.maep``.

    With ``tile`` it sees square tiles of that side, whatever the images' size; without, whole images, and
    tiles of that size where it is put before a classifier of larger ones.
    """

    patch: Side = 4  #: side of a patch, in pixels
    width: Many = 128
    encoder_blocks: Few = 4
    decoder_blocks: Few = 2
    heads: Few = 4
    patches_kept: Many | None = None  #: patches that a draw keeps; left out, all: the paper's inference
    adapter_rank: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = (
        0  #: of the decoder's low-rank adapters; 0 for none
    )

    tile: Side | None = None  #: side of the tiles that images are cut into, in pixels
    overlap: Annotated[int, msgspec.Meta(ge=0)] = 0  #: of neighbouring tiles, in pixels

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width: expected a multiple of 4 and of heads = {self.heads}, got {self.width}")


class Classifier(Section, frozen=True):
    """The diverse classifier, ``count`` members on one trunk; see ``trainer.models.classifier``.

    ``widths`` and ``blocks`` shape the edge network, the other kinds have theirs; ``factory`` is
    "package.module:callable", for the kind "module".

    The kind "onnx" is a classifier from the ONNX file ``file``, of one member. It wants its image as
    ``input`` says, RGB in [0, 1] by default, and ``model.mean`` and ``model.std`` are not used.
    """

    kind: Literal["edge", "resnet18", "wrn-28-10", "module", "onnx"] = "edge"
    count: Few = 2
    widths: Annotated[tuple[Many, ...], msgspec.Meta(max_length=64)] = (64, 128, 128)
    blocks: Few = 2
    factory: str | None = None
    file: str | None = None
    file_sha256: str | None = None  #: a checkpoint says it, and holds the file itself
    input: Conventions = Conventions()
    scores: Literal["logits", "probabilities"] | None = None  #: left out: probabilities sum to 1
    output: str | None = None  #: the value that holds its scores, if that isn't its first output

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise ValueError(f"widths: expected at least two positive widths, got {list(self.widths)}")
        if self.kind != "edge" and (self.widths, self.blocks) != ((64, 128, 128), 2):
            raise ValueError(f"widths, blocks: expected none, the classifier {self.kind!r} has its own")
        if (self.kind == "module") != (self.factory is not None):
            raise ValueError(
                f"factory: expected for the kind 'module' alone, got {self.factory!r} for {self.kind!r}"
            )
        self._check_onnx()

    def _check_onnx(self) -> None:
        if self.kind == "onnx":
            if self.count > 2:
                raise ValueError(
                    f"count: expected 1 for the kind 'onnx', which is one file; got {self.count}"
                )
            msgspec.structs.force_setattr(self, "count", 1)  # 2 is the default, of the other kinds
            return
        for key in ("file", "file_sha256", "scores", "output"):
            if (value := getattr(self, key)) is not None:
                raise ValueError(
                    f"{key}: expected for the kind 'onnx' alone, got {value!r} for {self.kind!r}"
                )
        if self.input != Conventions():
            raise ValueError(f"input: expected for the kind 'onnx' alone, got it for {self.kind!r}")


class _Model(Section, frozen=True):
    """What the families have in common."""

    n_classes: Many = 10
    image_size: Side | Sides = 32  #: the side of square images, or height and width
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[Positive, Positive, Positive] = (0.2470, 0.2435, 0.2616)
    classifier: Classifier = Classifier()


class RenModel(_Model, frozen=True, tag_field="family", tag="ren"):
    """Random encoding networks."""

    purifier: RenPurifier = RenPurifier()

    def __post_init__(self) -> None:
        rows, columns = (2 * side // self.purifier.patch for side in height_and_width(self.image_size))
        if self.purifier.atoms * rows * columns > MAX_CODE:
            raise ValueError(
                f"image_size: expected a code of at most {MAX_CODE:,} values, got "
                f"{self.purifier.atoms} atoms at {rows} x {columns} places"
            )


class MaepModel(_Model, frozen=True, tag_field="family", tag="maep"):
    """Masked autoencoder purifier."""

    purifier: MaepPurifier = MaepPurifier()

    def __post_init__(self) -> None:
        (side, width), patch = height_and_width(self.purifier.tile or self.image_size), self.purifier.patch
        if side != width:
            raise ValueError(
                f"purifier.tile: expected a side, since images of {side} x {width} are not square, got none"
            )
        if side % patch:
            key = "image_size" if self.purifier.tile is None else "purifier.tile"
            raise ValueError(f"{key}: expected a multiple of {patch}, the patch, got {side}")
        n_patches = (side // patch) ** 2
        if (kept := self.purifier.patches_kept or n_patches) > n_patches:
            raise ValueError(f"patches_kept: expected at most {n_patches}, all of an image, got {kept}")
        if self.purifier.overlap > side // 2:
            raise ValueError(
                f"purifier.overlap: expected at most {side // 2}, half of a tile, got {self.purifier.overlap}"
            )


class PlainModel(_Model, frozen=True, tag_field="family", tag="none"):
    """The classifier alone: the twin that a purifier's worth is measured against."""


#: The defence's shape; stored in the bundle, so that the twin can be rebuilt.
Model = RenModel | MaepModel | PlainModel
