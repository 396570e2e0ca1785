"""Threads that spread the pictures of one batch over the cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from typing import Generic, TypeVar

Tool = TypeVar("Tool")  # what a thread needs for itself, such as a buffer
Product = TypeVar("Product")


class Workers(Generic[Tool]):
    """Threads that share the pictures of a batch with the caller's thread, one per core in all.

    Each takes the next picture as soon as it is free, so a slow engine holds nobody up. Nothing is queued per
    picture: handing one over by a queue costs a share of the few hundred microseconds that it takes.
    """

    def __init__(self, n_threads: int, make_tool: Callable[[], Tool]) -> None:
        self._tools = [make_tool() for _ in range(n_threads)]
        self._pool = ThreadPoolExecutor(n_threads - 1, thread_name_prefix="purify")

    def map(self, make: Callable[[int, Tool], Product], order: Sequence[int]) -> list[Product]:
        """``make(i, tool)`` for every ``i`` below ``len(order)``, begun in that order, returned in theirs.

        An error is raised once no thread is at work any more.
        """
        n = len(order)
        products: dict[int, Product] = {}
        positions = count()  # next() of it is atomic

        def work(tool: Tool) -> None:
            try:
                while (position := next(positions)) < n:
                    i = order[position]
                    products[i] = make(i, tool)
            except BaseException:
                for _ in range(n):  # the others stop after the picture at hand
                    next(positions)
                raise

        mine, *others = self._tools[:n]
        helpers = [self._pool.submit(work, tool) for tool in others]
        try:
            work(mine)
        finally:
            wait(helpers)
        for helper in helpers:
            helper.result()
        return [products[i] for i in range(n)]

    def close(self) -> None:
        self._pool.shutdown()
