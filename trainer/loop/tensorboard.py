"""TensorBoard logging: the loss's terms, the validation figures, and images before and after purification."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType

import torch
from torch.utils.tensorboard import SummaryWriter

from trainer.loop.progress import Progress

EVERY = 25  # steps between two points of a curve


class Board:
    """Writes a run's progress to ``folder``; a reporter for ``trainer.loop.fit.fit``, and a context manager.

    It holds a thread until it is closed.

    The picture of an epoch has three rows: images as they are, attacked, and the attacked ones purified.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def writer(self) -> SummaryWriter:
        """Opened at the first point, so that processes which report nothing leave no file."""
        return SummaryWriter(str(self.folder))

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is held back, and end the thread; closing twice is harmless."""
        if "writer" in self.__dict__:
            self.writer.close()

    def __call__(self, progress: Progress) -> None:
        if not progress.validation and progress.step % EVERY:
            return
        for name, value in progress.terms.items():
            self.writer.add_scalar(f"training/{name}", value, progress.step)
        self.writer.add_scalar("speed/images_per_s", progress.images_per_s, progress.step)
        for name, value in progress.validation.items():
            self.writer.add_scalar(f"validation/{name}", value, progress.step)
        if progress.pictures is not None:
            rows = [torch.cat(list(row), dim=2) for row in progress.pictures.cpu()]  # (3, H, n W) each
            self.writer.add_image("input, attacked, purified", torch.cat(rows, dim=1), progress.step)
            self.writer.flush()
