"""Utterances, their data directory, and the shards made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpora import noise, write_data

from wesp_lap.data.shards import make_shards


@pytest.fixture
def waves() -> dict[str, np.ndarray]:
    """Eleven utterances of four speakers, 0.3 s to 1.3 s."""
    return {f"s{n % 4}-u{n:02d}": noise(n, 4800 + 1600 * n) for n in range(11)}


@pytest.fixture
def data(tmp_path: Path, waves: dict[str, np.ndarray]) -> Path:
    """A data directory with the utterances of ``waves``."""
    return write_data(tmp_path / "data", waves)


@pytest.fixture
def shards(tmp_path: Path, data: Path) -> Path:
    """The list of three shards made of ``data``."""
    make_shards(data, tmp_path / "shards", tmp_path / "shard.list", utterances_per_shard=4)
    return tmp_path / "shard.list"
