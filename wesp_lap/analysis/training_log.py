"""Read back what training has written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike


def read_training_log(exp_dir: PathLike) -> list[dict[str, Any]]:
    """Return the records of steps in ``metrics.jsonl``, one per moment of training, in order.

    Where a moment stands in the file twice, the later record counts.
    """
    records: dict[tuple[int, int], dict[str, Any]] = {}
    for where, record in _records(exp_dir):
        if "validation" in record:
            continue
        try:
            records[record["epoch"], record["step"]] = record
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: not a training record: {error!r}") from error
    if not records:
        path = Path(exp_dir) / "metrics.jsonl"
        raise DataError(f"{path}: holds no record; has this phase been trained?")
    return [records[key] for key in sorted(records)]


def read_validations(exp_dir: PathLike) -> dict[int, dict[str, float]]:
    """Return the results of the validations in ``metrics.jsonl`` by epochs done, in order."""
    found: dict[int, dict[str, float]] = {}
    for where, record in _records(exp_dir):
        if record.get("validation") is None:
            continue
        try:
            found[record["epoch"]] = dict(record["validation"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: not a record of a validation: {error!r}") from error
    return dict(sorted(found.items()))


def _records(exp_dir: PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    path = Path(exp_dir) / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; has this phase been trained?")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a training record: {error!r}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: not a training record: {line}")
        yield f"{path}:{number}", record
