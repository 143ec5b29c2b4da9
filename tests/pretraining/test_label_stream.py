"""Batches with labels of frames: each crop has those of its own place in its utterance."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wesp_lap.data.access import AccessSettings, CropReader
from wesp_lap.data.index import load_utterances
from wesp_lap.data.stream import open_stream
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction.sources import open_source
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.pretraining.features import Framing
from wesp_lap.pretraining.frames import Workers
from wesp_lap.pretraining.labelling import make_labels
from wesp_lap.pretraining.labels import LabelStore
from wesp_lap.pretraining.targets import FrameTargets, check_labels, encoder_framing

SEED = 3
FRAMING = Framing(400, 320)


@pytest.fixture
def make_stream(pretrain_corpus, pretrain_settings):
    def make(rank=0, world_size=1, framing=FRAMING, **changes):
        settings = pretrain_settings(**changes)
        utterances = load_utterances(settings.data.shards)
        targets = FrameTargets(utterances, LabelStore.open(settings.labels), framing)
        return open_stream(utterances, targets, settings.data.stream, SEED, rank, world_size)

    return make


def place_of(crop, wave):
    """Return where a crop begins in a wave that holds it once."""
    starts = np.flatnonzero(wave[: len(wave) - len(crop) + 1] == crop[0])
    found = [start for start in starts if np.array_equal(wave[start : start + len(crop)], crop)]
    assert len(found) == 1
    return int(found[0])


def test_labels_are_those_of_the_place_of_the_crop(make_stream, pretrain_corpus):
    shards, labels = pretrain_corpus
    utterances, store = load_utterances(shards), LabelStore.open(labels)
    rows = {utterances.key(row): row for row in range(len(utterances))}
    reader = CropReader(utterances, AccessSettings())
    starts = []
    for batch in make_stream().epoch(0):
        frames = (batch.waves.shape[1] - 400) // 320 + 1
        assert frames - 1 <= batch.labels.shape[1] <= frames
        assert batch.labels.dtype == torch.int64
        for key, crop, given in zip(batch.keys, batch.waves.numpy(), batch.labels, strict=True):
            wave = np.empty(utterances.samples.item(rows[key]), np.float32)
            reader.read(rows[key], 0, len(wave), wave)
            start = place_of(crop, wave)
            starts.append(start)
            first = int(np.floor(100 * start / 16000 + 0.5))
            whole = store.labels(key)
            expected = [int(whole[first + 2 * frame]) for frame in range(len(given))]
            # Halves are rounded to even numbers, as Python does.
            if 100 * start % 16000 != 8000:
                assert given.tolist() == expected
    assert len(starts) == 32 and len(set(starts)) > 10


def test_a_wider_first_frame_gives_fewer_labels(make_stream):
    usual, wide = (next(make_stream(framing=f).epoch(0)) for f in (FRAMING, Framing(960, 320)))
    frames = (usual.waves.shape[1] - 960) // 320 + 1
    assert wide.labels.shape[1] == frames
    assert torch.equal(wide.labels, usual.labels[:, :frames])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_a_later_start_change_nothing(make_stream, workers):
    whole = list(make_stream().epoch(1))
    for stream, first in ((make_stream(data={"num_workers": workers}), 0), (make_stream(), 9)):
        for one, other in zip(whole[first:], stream.epoch(1, first), strict=True):
            assert one.keys == other.keys
            assert torch.equal(one.waves, other.waves)
            assert torch.equal(one.labels, other.labels)


def test_the_ranks_share_the_utterances(make_stream):
    keys = [k for rank in (0, 1) for b in make_stream(rank, 2).epoch(0) for k in b.keys]
    assert len(keys) == len(set(keys)) == 32


def test_utterances_without_labels_are_named_before_training(
    pretrain_corpus, tiny_corpus, tmp_path
):
    shards, labels = pretrain_corpus
    data = DataDir.load(tiny_corpus.data)
    kept = data.utterances[3:]
    dataclasses.replace(
        data,
        wav={key: data.wav[key] for key in kept},
        utt2spk={key: data.utt2spk[key] for key in kept},
        utt2dur={},
    ).write(tmp_path / "some")
    source = open_source(str(tmp_path / "some"), None)
    store = make_labels(source, labels.parent / "clusters", tmp_path / "labels", Workers(jobs=1))
    with pytest.raises(DataError, match="3 utterances have none: spk00-0, spk00-1, spk00-2"):
        check_labels(load_utterances(shards), store)


def test_labels_of_other_audio_are_refused(pretrain_corpus):
    shards, labels = pretrain_corpus
    utterances = load_utterances(shards)
    longer = dataclasses.replace(utterances, samples=utterances.samples + 8000)
    with pytest.raises(DataError, match="spk00-0: 198 labels, but 40000 samples have 248"):
        check_labels(longer, LabelStore.open(labels))


@pytest.mark.parametrize(
    "kernels, strides, framing",
    [
        ([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2], Framing(400, 320)),
        ([400, 8], [80, 4], Framing(960, 320)),
    ],
)
def test_what_an_encoder_hears_in_a_frame(kernels, strides, framing):
    config = SimpleNamespace(conv_kernel=kernels, conv_stride=strides)
    assert encoder_framing(config) == framing


def test_frames_at_another_distance_than_labels_are_refused():
    with pytest.raises(ConfigError, match="160 samples apart, those of labels 320"):
        encoder_framing(SimpleNamespace(conv_kernel=[400, 2], conv_stride=[80, 2]))
