"""Log lines and progress: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from wesp_lap.files import PathLike

Item = TypeVar("Item")
_LINE_SECONDS = 10.0


def get_logger() -> logging.Logger:
    """Return the toolkit's logger."""
    return logging.getLogger("wesp_lap")


def set_up_logging(log_file: PathLike | None = None, rank: int = 0) -> None:
    """Send log lines of rank 0 to standard error and, when given, to ``log_file`` too."""
    logger = get_logger()
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None and rank == 0:
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    prefix = "" if rank == 0 else f"[rank {rank}] "
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def progress(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "utt"
) -> Iterator[Item]:
    """Yield ``items`` while showing how far the work is."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, unit=unit, leave=False)
        return
    start = shown = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= _LINE_SECONDS:
            shown = now
            rate = count / (now - start)
            left = f", {(total - count) / rate:.0f} s left" if total else ""
            get_logger().info("%s: %d/%s %s, %.1f/s%s", what, count, total or "?", unit, rate, left)
