"""The sample stream: reproducible for any number of workers, and true to the utterances."""

import os
import pickle

import numpy as np
import pytest
import soundfile
import torch
from corpora import noise, write_data

from wesp_lap.audio.augment import AugmentSettings
from wesp_lap.data.index import load_utterances, read_index
from wesp_lap.data.noise_bank import make_noise_bank
from wesp_lap.data.plan import Item
from wesp_lap.data.shards import make_shards
from wesp_lap.data.stream import CropDataset, StreamSettings, make_stream, speaker_classes
from wesp_lap.errors import DataError

CROP = 8000
HALF = CROP / 16000


@pytest.fixture
def bank(tmp_path):
    for number, name in enumerate(("noise/a", "music/b", "speech/c")):
        path = tmp_path / "musan" / f"{name}.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, noise(100 + number, 20000), 16000)
    (tmp_path / "rirs").mkdir()
    soundfile.write(tmp_path / "rirs" / "r.wav", noise(200, 500), 16000)
    make_noise_bank(tmp_path / "bank", tmp_path / "musan", tmp_path / "rirs")
    return tmp_path / "bank"


@pytest.fixture
def stream(shards):
    """Return a function that makes a stream of the shards, at seed 42 unless told otherwise."""

    def make(seed=42, rank=0, world_size=1, **settings):
        utterances = load_utterances(shards)
        defaults = {"shards": str(shards), "batch_size": 4, "crop_seconds": HALF, "num_workers": 0}
        options = StreamSettings(**{**defaults, **settings})
        return make_stream(utterances, speaker_classes(utterances), options, seed, rank, world_size)

    return make


def assert_equal_batches(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.waves, right.waves)
        assert torch.equal(left.labels, right.labels) and left.keys == right.keys


def places(wave, crop):
    """Return where ``crop`` stands in ``wave``."""
    firsts = np.flatnonzero(wave[: len(wave) - len(crop) + 1] == crop[0])
    return [start for start in firsts if np.array_equal(wave[start : start + len(crop)], crop)]


FULL = {"augment": AugmentSettings(speed_perturb=True, noise_prob=0.6)}


def test_a_batch_has_crops_labels_and_keys(stream):
    batches = list(stream().epoch(0))
    assert len(batches) == 2
    for batch in batches:
        assert batch.waves.shape == (4, CROP) and batch.waves.dtype == torch.float32
        assert batch.labels.dtype == torch.int64
        assert [f"s{label}" for label in batch.labels.tolist()] == [key[:2] for key in batch.keys]


def test_crops_are_slices_and_short_utterances_are_repeated(stream, waves):
    starts = set()
    one = stream()
    for epoch in range(12):
        for batch in one.epoch(epoch):
            for crop, key in zip(batch.waves.numpy(), batch.keys, strict=True):
                wave = waves[key]
                if len(wave) <= CROP:
                    np.testing.assert_array_equal(crop, np.tile(wave, 2)[:CROP])
                    continue
                [start] = places(wave, crop)
                starts.add(start / (len(wave) - CROP))
    assert len(starts) > 50 and min(starts) < 0.1 and max(starts) > 0.9


def test_crops_take_in_the_last_sample(stream, waves):
    """An utterance one sample longer than the crop has two crops, equally often."""
    batches = [
        batch for epoch in range(40) for batch in stream(crop_seconds=1.2999375).epoch(epoch)
    ]
    whole = waves["s2-u10"]
    assert len(whole) == 20800 and batches[0].waves.shape[1] == 20799
    firsts = [
        bool(torch.equal(wave, torch.from_numpy(whole[:-1])))
        for batch in batches
        for wave, key in zip(batch.waves, batch.keys, strict=True)
        if key == "s2-u10"
    ]
    assert 5 < sum(firsts) < len(firsts) - 5


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(stream, bank, workers):
    here = stream(noise_bank=str(bank), **FULL)
    there = stream(noise_bank=str(bank), num_workers=workers, **FULL)
    for epoch, step in ((0, 0), (1, 1)):
        assert_equal_batches(here.epoch(epoch, step), there.epoch(epoch, step))
    # An epoch that is left early does not leak into the next one.
    next(there.epoch(2))
    assert_equal_batches(here.epoch(3), there.epoch(3))


def test_a_resumed_epoch_is_the_tail_of_the_whole(stream, bank):
    whole = list(stream(noise_bank=str(bank), batch_size=2, **FULL).epoch(1))
    assert len(whole) == 5
    for step in range(5):
        tail = stream(noise_bank=str(bank), batch_size=2, **FULL).epoch(1, step)
        assert_equal_batches(tail, whole[step:])


def test_the_ranks_together_are_one_process(stream, bank):
    whole = list(stream(noise_bank=str(bank), **FULL).epoch(0))
    ranks = [
        list(stream(rank=rank, world_size=2, noise_bank=str(bank), **FULL).epoch(0))
        for rank in range(2)
    ]
    for batch, first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.waves, torch.cat([first.waves, second.waves]))
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))


def test_epochs_and_seeds_draw_anew(stream, bank):
    one = stream(noise_bank=str(bank), **FULL)
    batches = [next(one.epoch(0)), next(one.epoch(1)), next(stream(43).epoch(0))]
    again = next(stream(noise_bank=str(bank), **FULL).epoch(0))
    assert torch.equal(batches[0].waves, again.waves)
    assert not torch.equal(batches[0].waves, batches[1].waves)
    assert not torch.equal(batches[0].waves, batches[2].waves)


def test_speeds_of_a_speaker_are_classes_of_their_own(stream, waves):
    """Class k + i N holds speaker k at the i-th of the speeds 1, 0.9 and 1.1; N is 4 here."""
    one = stream(augment=AugmentSettings(speed_perturb=True))
    counts = np.zeros(3)
    for batch in (batch for epoch in range(15) for batch in one.epoch(epoch)):
        for crop, label, key in zip(batch.waves.numpy(), batch.labels, batch.keys, strict=True):
            speed, speaker = divmod(int(label), 4)
            counts[speed] += 1
            assert key.startswith(f"s{speaker}-")
            if len(waves[key]) > CROP:
                assert len(places(waves[key], crop)) == (speed == 0)
    # Within 4 standard deviations of the share of 120 draws.
    assert np.abs(counts / 120 - (0.6, 0.2, 0.2)).max() < 0.18


def test_a_tone_has_the_pitch_of_the_speed_of_its_class(tmp_path):
    time = np.arange(40000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    data = write_data(tmp_path / "tones", {f"s{n}-a": tone for n in range(2)})
    make_shards(data, tmp_path / "t", tmp_path / "t.list")
    utterances = load_utterances(tmp_path / "t.list")
    settings = StreamSettings(
        "t.list", batch_size=2, crop_seconds=1.0, augment=AugmentSettings(speed_perturb=True)
    )
    dataset = CropDataset(utterances, speaker_classes(utterances), settings, None, seed=0)
    met = set()
    for position in range(30):
        crop, label, _ = dataset[Item(0, position, position % 2)]
        met.add(label)
        peak = np.abs(np.fft.rfft(crop * np.hanning(16000))).argmax()
        assert crop.shape == (16000,) and peak == (1000, 900, 1100)[label // 2]
    assert met == set(range(6))


def test_with_noise_the_label_stays_and_the_wave_changes(stream, bank):
    clean = stream()
    noisy = stream(noise_bank=str(bank), augment=AugmentSettings(noise_prob=1.0))
    for before, after in zip(clean.epoch(0), noisy.epoch(0), strict=True):
        assert before.keys == after.keys and torch.equal(before.labels, after.labels)
        assert not (before.waves == after.waves).all(1).any()


def damage(shards, row):
    """Change one byte of the audio of an utterance; return its key and tar."""
    tar = shards.read_text().split()[row // 4]
    entry = read_index(tar)[row % 4]
    with open(tar, "r+b") as stream:
        stream.seek(entry.offset + entry.size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    return entry.key, tar


@pytest.mark.parametrize("workers", [0, 1])
def test_one_flipped_bit_is_named_from_here_and_from_a_worker(stream, shards, workers):
    key, tar = damage(shards, 5)
    with pytest.raises(DataError) as caught:
        for epoch in range(9):
            list(stream(num_workers=workers, batch_size=10).epoch(epoch))
    assert str(caught.value) == (
        f"{tar}: the audio of '{key}' does not match its checksum: the shard is damaged; "
        "make it again"
    )


def test_shards_at_another_rate_are_refused(tmp_path, data):
    make_shards(data, tmp_path / "8k", tmp_path / "8k.list", sample_rate=8000)
    utterances = load_utterances(tmp_path / "8k.list")
    settings = StreamSettings("8k.list", batch_size=4, crop_seconds=0.1, num_workers=0)
    low = make_stream(utterances, speaker_classes(utterances), settings, 0)
    with pytest.raises(
        DataError, match=r"s\d-u\d+: 8000 Hz in the shards, 16000 expected; .*--sam"
    ):
        list(low.epoch(0))


def test_speakers_are_numbered_in_c_locale_order(tmp_path):
    speakers = ["b", "B", "a10", "a9", "é", "z"]
    data = write_data(tmp_path / "d", {f"{name}-1": noise(0, 100) for name in speakers})
    make_shards(data, tmp_path / "s", tmp_path / "s.list")
    classes = speaker_classes(load_utterances(tmp_path / "s.list"))
    order = ["B", "a10", "a9", "b", "z", "é"]
    assert classes == {name: number for number, name in enumerate(order)}


def test_one_speaker_is_not_enough(tmp_path):
    data = write_data(tmp_path / "d", {"a-1": noise(0, 100), "a-2": noise(1, 100)})
    make_shards(data, tmp_path / "s", tmp_path / "s.list")
    with pytest.raises(DataError, match="at least 2 speakers, the shards hold 1"):
        speaker_classes(load_utterances(tmp_path / "s.list"))


def test_speakers_that_the_model_does_not_know_are_named(shards):
    utterances = load_utterances(shards)
    settings = StreamSettings(str(shards), batch_size=4, crop_seconds=HALF)
    with pytest.raises(DataError, match=r"not in the model's speaker map \(2 problems\)") as caught:
        make_stream(utterances, {"s0": 0, "s3": 1, "s9": 2}, settings, 0)
    assert "  s1\n  s2\n" in str(caught.value) and "start a new model" in str(caught.value)


def test_a_missing_noise_bank_is_named_before_training(stream, tmp_path):
    with pytest.raises(DataError, match=r"--data\.noise_bank DIR, or set --data\.augment\.noise_p"):
        stream(augment=AugmentSettings(noise_prob=0.6))
    with pytest.raises(DataError, match=r"gone/bank\.json: no such file"):
        stream(noise_bank=str(tmp_path / "gone"), augment=AugmentSettings(noise_prob=0.6))
    assert stream(noise_bank=str(tmp_path / "gone")) is not None  # not asked for


def test_a_bank_without_music_is_named_before_training(stream, bank):
    index = bank / "bank.json"
    index.write_text(index.read_text().replace('"music"', '"Music"'))
    with pytest.raises(DataError, match="the noise bank holds no music"):
        stream(noise_bank=str(bank), augment=AugmentSettings(noise_prob=0.6))


def test_open_files_do_not_travel_to_workers(shards):
    utterances = load_utterances(shards)
    settings = StreamSettings(str(shards), batch_size=4, crop_seconds=HALF)
    dataset = CropDataset(utterances, speaker_classes(utterances), settings, None, 0)
    before = dataset[Item(0, 3, 5)]
    after = pickle.loads(pickle.dumps(dataset))[Item(0, 3, 5)]
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize(
    "change", [{"batch_size": 1}, {"crop_seconds": 0}, {"num_workers": -1}], ids=str
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="batch_size >= 2, crop_seconds > 0 and num_workers >= 0"):
        StreamSettings("x", **change)


def test_few_shards_stay_open_and_all_are_read(data, tmp_path, monkeypatch):
    """A corpus has more shards than a process may open files."""
    monkeypatch.setattr("wesp_lap.data.stream._MAX_OPEN", 2)
    make_shards(data, tmp_path / "shards", tmp_path / "shard.list", utterances_per_shard=1)
    utterances = load_utterances(tmp_path / "shard.list")
    settings = StreamSettings(str(tmp_path / "shard.list"), batch_size=2, crop_seconds=0.1)
    dataset = CropDataset(utterances, speaker_classes(utterances), settings, None, 0)
    order = [0, 1, 2, 0, 3, 1, 2, 0]
    keys = [dataset[Item(0, position, row)][2] for position, row in enumerate(order)]
    assert keys == [utterances.keys[row] for row in order]
    assert len(dataset._open) == 2
