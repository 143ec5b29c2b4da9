"""A corpus with labels that all tests of pre-training runs share."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretraining_corpus import make_corpus, settings_of


@pytest.fixture(scope="session")
def pretrain_corpus(tiny_corpus, tmp_path_factory) -> tuple[Path, Path]:
    """Return the shard list of the tiny corpus and its labels, 8 clusters of MFCC."""
    return make_corpus(tiny_corpus.data, tmp_path_factory.mktemp("pretraining"))


@pytest.fixture
def pretrain_settings(pretrain_corpus):
    """Return a function from changes to checked PretrainSettings: 2 epochs of 15 updates."""
    return lambda **changes: settings_of(*pretrain_corpus, **changes)
