"""The sample stream: reproducible for any number of workers, and true to the utterances."""

import multiprocessing
import os
import pickle
import resource
import signal

import numpy as np
import pytest
import soundfile
import torch
from corpora import noise, write_data

from wesp_lap.audio.augment import AugmentSettings
from wesp_lap.coerce import Section
from wesp_lap.data.access import AccessSettings
from wesp_lap.data.crops import CropDataset, SpeakerTargets
from wesp_lap.data.index import load_utterances, read_index
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.noise_bank import make_noise_bank
from wesp_lap.data.plan import BatchPlan
from wesp_lap.data.raw_list import make_raw_list
from wesp_lap.data.settings import StreamSettings
from wesp_lap.data.shards import make_shards
from wesp_lap.data.stream import make_stream, speaker_classes
from wesp_lap.errors import ConfigError, DataError, WespError

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


def test_an_epoch_has_crops_labels_and_keys_of_every_utterance(stream, waves):
    batches = list(stream().epoch(0))
    assert len(batches) == 3
    assert sorted(key for batch in batches for key in batch.keys) == sorted(waves)
    for batch in batches:
        assert batch.waves.shape == (len(batch.keys), CROP) and batch.waves.dtype == torch.float32
        assert batch.noises is None and batch.faults == {}
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


def test_threads_of_the_process_change_nothing(stream, bank):
    """Loader processes have one; a process that loads for itself may have more."""
    before = torch.get_num_threads()
    expected = list(stream(noise_bank=str(bank), **FULL).epoch(0))
    torch.set_num_threads(2)
    try:
        batches = list(stream(noise_bank=str(bank), **FULL).epoch(0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert_equal_batches(batches, expected)


def test_a_resumed_epoch_is_the_tail_of_the_whole(stream, bank):
    whole = list(stream(noise_bank=str(bank), batch_size=3, **FULL).epoch(1))
    assert len(whole) == 4
    for step in range(4):
        tail = stream(noise_bank=str(bank), batch_size=3, **FULL).epoch(1, step)
        assert_equal_batches(tail, whole[step:])


def test_the_ranks_together_are_one_process(stream, bank):
    whole = list(stream(noise_bank=str(bank), batch_size=8, **FULL).epoch(0))
    ranks = [
        list(stream(rank=rank, world_size=2, noise_bank=str(bank), batch_size=8, **FULL).epoch(0))
        for rank in range(2)
    ]
    for batch, first, second in zip(whole, *ranks, strict=True):
        waves = torch.cat([first.waves, second.waves])
        torch.testing.assert_close(batch.waves, waves, atol=1e-6, rtol=1e-5)
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
    # Within 4 standard deviations of the share of 165 draws.
    assert np.abs(counts / counts.sum() - (0.6, 0.2, 0.2)).max() < 0.16


def test_a_tone_has_the_pitch_of_the_speed_of_its_class(tmp_path):
    time = np.arange(40000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    data = write_data(tmp_path / "tones", {f"s{n}-a": tone for n in range(2)})
    make_shards(data, tmp_path / "t", tmp_path / "t.list")
    utterances = load_utterances(tmp_path / "t.list")
    settings = StreamSettings(
        "t.list", batch_size=2, crop_seconds=1.0, augment=AugmentSettings(speed_perturb=True)
    )
    dataset = CropDataset(
        utterances, SpeakerTargets(utterances, speaker_classes(utterances)), settings, None, seed=0
    )
    met = set()
    batch = dataset[BatchPlan(0, 0, np.arange(30) % 2, 16000, 1.0, np.array([]))]
    for crop, label in zip(batch.waves.numpy(), batch.labels.tolist(), strict=True):
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
    text = str(caught.value)
    assert (
        "damaged training data (1 problem)" in text and f"utterance '{key}': {tar}: damaged" in text
    )
    assert f"python -m wesp_lap.bin.check_shards --list {shards} and" in text
    assert "set data.max_bad to 1" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_within_the_budget_is_counted_and_left_out(stream, shards, waves, workers, caplog):
    key, _ = damage(shards, 5)
    one = stream(num_workers=workers, max_bad=1)
    for epoch in range(2):
        batches = list(one.epoch(epoch))
        assert sorted(k for batch in batches for k in batch.keys) == sorted(set(waves) - {key})
        for batch in batches:
            assert len(batch.waves) == len(batch.labels) == len(batch.keys)
            assert [f"s{label}" for label in batch.labels.tolist()] == [k[:2] for k in batch.keys]
    assert f"left out (1 of data.max_bad 1): utterance '{key}'" in caplog.text
    damage(shards, 6)
    with pytest.raises(DataError, match=r"damaged training data \(2 problems\)"):
        list(stream(num_workers=workers, max_bad=1).epoch(0))


def test_a_damaged_utterance_counts_once_whichever_part_of_it_is_read(tmp_path):
    data = write_data(tmp_path / "d", {f"s{n % 2}-{n}": noise(n, 80000) for n in range(4)}, "wav")
    make_shards(data, tmp_path / "s", tmp_path / "s.list")
    [tar] = (tmp_path / "s.list").read_text().split()
    entry = read_index(tar)[2]
    with open(tar, "r+b") as file:
        file.seek(entry.offset + 44)
        file.write(bytes(entry.size - 44))
    utterances = load_utterances(tmp_path / "s.list")
    settings = StreamSettings("s.list", None, 4, HALF, num_workers=0, max_bad=1)
    one = make_stream(utterances, speaker_classes(utterances), settings, 0)
    found = [batch.faults for epoch in range(8) for batch in one.epoch(epoch)]
    assert all(list(faults) == [entry.key] for faults in found)
    assert len({faults[entry.key] for faults in found}) > 3


def test_what_is_damaged_changes_nothing_for_the_others(stream, shards, bank):
    whole = list(stream(noise_bank=str(bank), **FULL).epoch(0))
    key, _ = damage(shards, 5)
    for before, after in zip(
        whole, stream(noise_bank=str(bank), max_bad=1, **FULL).epoch(0), strict=True
    ):
        kept = [place for place, name in enumerate(before.keys) if name != key]
        assert [before.keys[place] for place in kept] == after.keys
        torch.testing.assert_close(before.waves[kept], after.waves, atol=1e-6, rtol=1e-5)


def test_a_killed_loader_is_named_and_does_not_hang(stream):
    before = {child.pid for child in multiprocessing.active_children()}
    one = stream(num_workers=1)
    batches = one.epoch(0)
    next(batches)
    [worker] = [child for child in multiprocessing.active_children() if child.pid not in before]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with pytest.raises(WespError, match=r"a loader process ended: .* lower data\.num_workers"):
        for epoch in range(1, 20):
            list(one.epoch(epoch))


def test_another_error_in_a_loader_is_not_taken_for_a_kill(stream, monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(CropDataset, "_crops", fail)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(stream(num_workers=1).epoch(0))


def test_too_little_shared_memory_is_named_and_does_not_hang(stream, monkeypatch):
    read = CropDataset._read

    def limited(*arguments):
        # No more than this fits into a file, and so into shared memory.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        return read(*arguments)

    def hangs(*_):
        raise TimeoutError

    monkeypatch.setattr(CropDataset, "_read", limited)
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    try:
        with pytest.raises(WespError, match=r"ran out of shared memory; enlarge /dev/shm"):
            next(stream(num_workers=1, crop_seconds=10.0).epoch(0))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_weights_of_a_step_average_to_one(stream):
    ranks = [list(stream(rank=rank, world_size=2, batch_size=8).epoch(0)) for rank in range(2)]
    for first, second in zip(*ranks, strict=True):
        assert first.weight + second.weight == pytest.approx(2)
        assert first.weight / second.weight == pytest.approx(len(first.keys) / len(second.keys))


def test_noise_may_be_added_on_the_training_device(stream, bank):
    here = stream(noise_bank=str(bank), **FULL)
    there = stream(noise_bank=str(bank), augment_on="device", num_workers=1, **FULL)
    for one, other in zip(here.epoch(0), there.epoch(0, device="cpu"), strict=True):
        torch.testing.assert_close(one.waves, other.waves, atol=1e-6, rtol=1e-5)
        assert other.noises is None and one.keys == other.keys


def test_sampling_is_chosen_in_the_settings(stream, waves):
    by_speaker = Section("speakers", {"per_speaker": 2})
    for batch in stream(sampling=by_speaker).epoch(0):
        first, second = batch.labels[::2], batch.labels[1::2]
        assert torch.equal(first, second) and len(set(first.tolist())) == len(first)
    by_length = Section("lengths", {"max_seconds": 2, "shortest_seconds": 0.3, "bucket_size": 4})
    by_length.options["longest_seconds"] = 1.2
    batches = list(stream(sampling=by_length).epoch(0))
    assert sorted(key for batch in batches for key in batch.keys) == sorted(waves)
    for batch in batches:
        assert batch.waves.shape[1] == min(min(len(waves[key]) for key in batch.keys), 19200)
        assert batch.waves.numel() <= 32000
    with pytest.raises(ConfigError, match="did you mean 'max_per_speaker'"):
        stream(sampling=Section("utterances", {"max_per_speakr": 3}))


def test_shards_at_another_rate_are_refused(tmp_path, data):
    make_shards(data, tmp_path / "8k", tmp_path / "8k.list", sample_rate=8000)
    utterances = load_utterances(tmp_path / "8k.list")
    settings = StreamSettings("8k.list", batch_size=4, crop_seconds=0.1, num_workers=0)
    with pytest.raises(DataError, match=r"11 utterances .* at 8000 Hz; .*--sample_rate 16000"):
        make_stream(utterances, speaker_classes(utterances), settings, 0)


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


def test_a_cache_reads_the_same_and_one_that_would_overflow_is_refused(stream, tmp_path):
    cached = AccessSettings(cache_dir=str(tmp_path / "cache"))
    here, there = stream(), stream(access=cached, num_workers=1)
    for epoch in range(2):
        assert_equal_batches(here.epoch(epoch), there.epoch(epoch))
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 3
    small = AccessSettings(cache_dir=str(tmp_path / "cache"), cache_gb=1e-5)
    with pytest.raises(ConfigError, match=r"cache_gb \(1e-05\) holds less .*window_shards"):
        stream(access=small)
    assert stream(access=small, sampling=Section("utterances", {"window_shards": 1})) is not None


def test_a_raw_list_needs_no_room_in_the_cache(tmp_path, data):
    make_raw_list(data, tmp_path / "raw.list")
    index_shards(tmp_path / "raw.list")
    utterances = load_utterances(tmp_path / "raw.list")
    small = AccessSettings(cache_dir=str(tmp_path / "cache"), cache_gb=1e-6)
    settings = StreamSettings("raw.list", None, 4, HALF, num_workers=0, access=small)
    one = make_stream(utterances, speaker_classes(utterances), settings, 0)
    assert sum(len(batch.keys) for batch in one.epoch(0)) == 11


def test_a_missing_noise_bank_is_named_before_training(stream, tmp_path):
    with pytest.raises(DataError, match=r"--data\.noise_bank DIR, or set --data\.augment\.noise_p"):
        stream(augment=AugmentSettings(noise_prob=0.6))
    with pytest.raises(DataError, match=r"gone/bank\.json: no such file"):
        stream(noise_bank=str(tmp_path / "gone"), augment=AugmentSettings(noise_prob=0.6))
    assert stream(noise_bank=str(tmp_path / "gone")) is not None  # not asked for


def test_a_bank_without_music_is_named_before_training(stream, bank):
    index = bank / "bank.json"
    index.write_text(index.read_text().replace('"music"', '"Music"').replace('"rir"', '"Rir"'))
    with pytest.raises(DataError, match=r"bank: the noise bank holds no music, rir; make it from"):
        stream(noise_bank=str(bank), augment=AugmentSettings(noise_prob=0.6))


def test_open_files_do_not_travel_to_workers(shards):
    utterances = load_utterances(shards)
    settings = StreamSettings(str(shards), batch_size=4, crop_seconds=HALF)
    dataset = CropDataset(
        utterances, SpeakerTargets(utterances, speaker_classes(utterances)), settings, None, 0
    )
    plan = BatchPlan(0, 3, np.array([5, 2]), CROP, 1.0, np.array([]))
    before = dataset[plan]
    after = pickle.loads(pickle.dumps(dataset))[plan]
    assert_equal_batches([before], [after])


@pytest.mark.parametrize(
    "change", [{"batch_size": 1}, {"crop_seconds": 0}, {"num_workers": -1}], ids=str
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="batch_size >= 2, crop_seconds > 0 and num_workers >= 0"):
        StreamSettings("x", **change)
