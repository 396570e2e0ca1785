"""Data sets: opening, splitting, augmenting, fetching.

``open_dataset`` gives a ``DataSet``: ``Images`` in memory, or ``ImageFolders`` decoded as they are asked for.
Both hand out uint8 batches by ``stream``, which readies the next ones while the last is worked on.
"""

from trainer.data.augmentation import augment
from trainer.data.catalogue import (
    FOLDERS,
    SPLITS,
    Contents,
    check,
    fetch,
    names,
    open_as_trained,
    open_configured,
    open_dataset,
)
from trainer.data.dataset import DataError, DataSet, Images, split_validation
from trainer.data.folders import ImageFolders, open_folders
from trainer.data.generators import keyed_generator
from trainer.data.readers.cifar10 import CIFAR10_LABELS, read_cifar10
from trainer.data.readers.gtsrb import GTSRB_LABELS, read_gtsrb
from trainer.data.readers.svhn import SVHN_LABELS, read_svhn

__all__ = [
    "CIFAR10_LABELS",
    "FOLDERS",
    "GTSRB_LABELS",
    "SPLITS",
    "SVHN_LABELS",
    "Contents",
    "DataError",
    "DataSet",
    "ImageFolders",
    "Images",
    "augment",
    "check",
    "fetch",
    "keyed_generator",
    "names",
    "open_as_trained",
    "open_configured",
    "open_dataset",
    "open_folders",
    "read_cifar10",
    "read_gtsrb",
    "read_svhn",
    "split_validation",
]
