"""The models, one file each; ``build`` makes a defence from the ``model`` section of a config."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from trainer.config import MaepModel, Model, RenModel
from trainer.image_size import height_and_width
from trainer.models.budget import Budget
from trainer.models.classifier import DiverseClassifier, Parts, edge_network
from trainer.models.defence import Defence, Draw
from trainer.models.imported import foreign
from trainer.models.maep import MaskedAutoencoder
from trainer.models.onnx_classifier import OnnxClassifier, onnx_parts
from trainer.models.purifier import NoPurifier, PurifierBank
from trainer.models.ren import SparseEncodingPurifier
from trainer.models.resnet import resnet18, wide_resnet

__all__ = ["Defence", "Draw", "OnnxClassifier", "build", "build_purifier"]


def build(
    model: Model,
    *,
    seed: int = 0,
    classifier_file: bytes | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Defence:
    """An untrained defence.

    Args:
        model: its shape.
        seed: draws the sub-encoders' subsets and the initial weights.
        classifier_file: the ONNX file of a classifier of the kind "onnx"; by default it is read from where
            the config says.
        weights: those that it is about to take, where ``model`` is a stranger's: it may not be far larger.

    Raises:
        UsageError: a classifier that is named by import path or file can't be had from there; or the model is
            far larger than ``weights``.
    """
    is_users_own = model.classifier.kind in ("module", "onnx")  # whose size nobody can tell from the config
    with nullcontext() if weights is None or is_users_own else Budget(weights.values()):
        return _built(model, seed, classifier_file)


def _built(model: Model, seed: int, classifier_file: bytes | None) -> Defence:
    purifier = build_purifier(model, seed)
    is_onnx = model.classifier.kind == "onnx"  # which has its own normalization
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # torch's layers initialize from the global generator
        classifier = DiverseClassifier(
            _classifier_parts(model, classifier_file),
            n_classes=model.n_classes,
            n_classifiers=model.classifier.count,
            mean=(0, 0, 0) if is_onnx else model.mean,
            std=(1, 1, 1) if is_onnx else model.std,
        )
    return Defence(purifier, classifier)


def build_purifier(model: Model, seed: int = 0) -> PurifierBank:
    """The purifier alone."""
    if isinstance(model, RenModel):
        return _ren(model, seed)
    return _maep(model, seed) if isinstance(model, MaepModel) else NoPurifier()


def _ren(model: RenModel, seed: int) -> PurifierBank:
    return SparseEncodingPurifier(
        n_purifiers=model.purifier.count,
        atoms=model.purifier.atoms,
        atoms_per_encoder=model.purifier.atoms_per_encoder,
        atoms_kept=model.purifier.atoms_kept,
        patch=model.purifier.patch,
        iterations=model.purifier.iterations,
        threshold=model.purifier.threshold,
        image_size=model.image_size,
        generator=torch.Generator().manual_seed(seed),
    )


def _maep(model: MaepModel, seed: int) -> PurifierBank:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAutoencoder(
            image_size=model.purifier.tile or height_and_width(model.image_size)[0],
            patch=model.purifier.patch,
            overlap=model.purifier.overlap,
            width=model.purifier.width,
            encoder_blocks=model.purifier.encoder_blocks,
            decoder_blocks=model.purifier.decoder_blocks,
            heads=model.purifier.heads,
            patches_kept=model.purifier.patches_kept,
            adapter_rank=model.purifier.adapter_rank,
        )


def _classifier_parts(model: Model, classifier_file: bytes | None) -> Parts:
    section = model.classifier
    if section.kind == "onnx":
        return onnx_parts(section, model.n_classes, model.image_size, classifier_file)
    if section.kind == "resnet18":
        return resnet18(model.n_classes)
    if section.kind == "wrn-28-10":
        return wide_resnet(model.n_classes)
    if section.factory is not None:
        return foreign(section.factory, model.n_classes, model.image_size)
    return edge_network(model.n_classes, widths=section.widths, blocks=section.blocks)
