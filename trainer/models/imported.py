"""User-defined classifiers, given by import path: ``package.module:factory``."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import nn

from sdk.errors import UsageError
from trainer.image_size import ImageSize, height_and_width
from trainer.models.classifier import Parts

HINT = (
    "model.classifier.factory names a callable, in an installed package or in a folder of PYTHONPATH, that "
    "takes n_classes and returns a torch module"
)


def foreign(path: str, n_classes: int, image_size: ImageSize) -> Parts:
    """Members that the factory at ``path`` makes, without a common trunk.

    ``factory(n_classes=...)`` returns a module that maps images (B, 3, H, W), normalized by ``model.mean``
    and ``model.std``, to logits (B, n_classes). **Importing runs the code that the path names**: take a
    config that has one from people you trust. A checkpoint that names one is refused unless its reader says
    otherwise. The working directory is not searched.

    Raises:
        UsageError: nothing can be imported from there, or what it makes is no such module.
    """
    factory = _find(path)

    def member() -> nn.Module:
        try:
            module = factory(n_classes=n_classes)
        except Exception as error:  # whatever the user's code raises
            raise _refusal(path, f"calling it raised {_brief(error)}") from error
        _check(path, module, n_classes, image_size)
        return module

    return Parts(nn.Identity(), member)


def _find(path: str) -> Callable[..., nn.Module]:
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise _refusal(path, "expected package.module:factory")
    try:
        found: object = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # an absent module, or whatever the user's module raises
        raise _refusal(path, f"importing {module_name} raised {_brief(error)}") from error
    if not callable(found):
        raise _refusal(path, f"{module_name} has no callable {name}")
    return found


def _check(path: str, module: object, n_classes: int, image_size: ImageSize) -> None:
    """Run ``module`` once: a wrong shape is told before any training."""
    if not isinstance(module, nn.Module):
        raise _refusal(path, f"expected it to return a torch.nn.Module, got {type(module).__name__}")
    was_training, shape = module.training, (2, 3, *height_and_width(image_size))
    try:
        with torch.no_grad():
            logits = module.eval()(torch.zeros(shape))
    except Exception as error:
        raise _refusal(path, f"its module, given {shape}, raised {_brief(error)}") from error
    module.train(was_training)
    found = tuple(getattr(logits, "shape", ()))
    if found != (2, n_classes):
        raise _refusal(
            path, f"expected logits of shape (2, {n_classes}), got {found or type(logits).__name__}"
        )


def _refusal(path: str, what: str) -> UsageError:
    return UsageError(f"classifier {path!r}: {what}", hint=HINT)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
