"""Inputs of the scoring benchmark: embeddings, cohorts and trial lists of given sizes, seeded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.scores import write_scores
from wesp_lap.kaldi.trials import Trials, write_trials

DIM, UTTERANCES, TRIALS, COHORT, SPEAKERS = 256, 145_160, 579_818, 5_994, 1_251
LARGE_COHORT = 1_090_000


def make_inputs(work: Path, scale: float = 1.0) -> None:
    """Write embeddings, cohort and trial lists (one of them ten times as long) below ``work``."""
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((SPEAKERS, DIM)).astype(np.float32)
    count = round(UTTERANCES * scale)
    speaker = np.arange(count) * SPEAKERS // count
    keys = [f"id{10001 + s}/video-{i // 5:06d}/{i:06d}.wav" for i, s in enumerate(speaker)]
    with VectorWriter(work / "test/xvector") as writer:
        for key, s in zip(keys, speaker, strict=True):
            writer.write(key, voices[s] + 2 * rng.standard_normal(DIM) + 0.5)
    with VectorWriter(work / "cohort/xvector") as writer:
        for i in range(COHORT):
            writer.write(f"id{i:05d}", rng.standard_normal(DIM) + 0.5)
    for name, trials in (("E", round(TRIALS * scale)), ("E10", round(10 * TRIALS * scale))):
        # Every utterance is in the list, as in the real one; half of the trials are targets.
        one = rng.permutation(np.arange(trials) % count)
        near = (one + rng.integers(1, max(2, count // SPEAKERS), trials)) % count
        other = np.where(rng.random(trials) < 0.5, near, rng.integers(count, size=trials))
        labels = (speaker[one] == speaker[other]).astype(np.int8)
        pairs = [[keys[i] for i in side.tolist()] for side in (one, other)]
        write_trials(work / name, Trials(*pairs, labels))


def make_large_cohort(work: Path, scale: float = 1.0) -> None:
    """Write a cohort of utterances, and a scored list of 2,000 other ones."""
    rng = np.random.default_rng(1)
    with VectorWriter(work / "large/xvector") as writer:
        for i in range(round(LARGE_COHORT * scale)):
            writer.write(f"utt{i:07d}", rng.standard_normal(DIM, np.float32))
    keys = [f"test{i:04d}" for i in range(2000)]
    with VectorWriter(work / "few/xvector") as writer:
        for key in keys:
            writer.write(key, rng.standard_normal(DIM))
    trials = Trials(keys, keys[::-1], None)
    write_trials(work / "few/list", trials)
    write_scores(work / "few/list.score", trials, rng.standard_normal(len(keys)))
