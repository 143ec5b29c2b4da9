"""Read back what training has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wesp_lap.errors import DataError
from wesp_lap.files import PathLike


def read_training_log(exp_dir: PathLike) -> list[dict[str, Any]]:
    """Return the records of ``metrics.jsonl``, one per moment of training, in order.

    Those of validations are left out. After a resume some steps stand in the file twice; the later
    record counts.
    """
    path = Path(exp_dir) / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; has this phase been trained?")
    records: dict[tuple[int, int], dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            if "validation" in record:
                continue
            records[record["epoch"], record["step"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a training record: {error!r}") from error
    if not records:
        raise DataError(f"{path}: holds no record; has this phase been trained?")
    return [records[key] for key in sorted(records)]
