"""Progress of an epoch on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from wesp_lap.log import get_logger


@contextlib.contextmanager
def step_bar(title: str, first: int, total: int, shown: bool) -> Iterator[Callable[[], object]]:
    """Show a bar for the steps of an epoch; log lines go above it.

    Yields a function to call after each step. Nothing is shown where standard error is no terminal.

    Args:
        title: What stands before the bar.
        first: Steps that were done before.
        total: Steps of the epoch.
        shown: False in all processes but one.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with (
        tqdm(desc=title, initial=first, total=total, unit="step", leave=False) as bar,
        logging_redirect_tqdm([get_logger()]),
    ):
        yield bar.update
