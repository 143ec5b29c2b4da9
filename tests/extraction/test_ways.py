"""All ways to the same embeddings: batches, chunks, crops, speech, shards, raw lists."""

import numpy as np
import pytest
import soundfile
import torch

from wesp_lap.audio.vad import energy_vad, keep_speech
from wesp_lap.data.indexing import index_shards
from wesp_lap.data.raw_list import make_raw_list
from wesp_lap.data.shards import make_shards
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction import ExtractionSettings, embedder, extract, open_source
from wesp_lap.extraction.embedder import Embedder
from wesp_lap.extraction.loading import Loader
from wesp_lap.kaldi.ark import read_vectors
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.log import get_logger
from wesp_lap.model import SpeakerModel


def run(model_dir, source, out, jobs=1, **settings):
    count = extract(model_dir, source, out, "cpu", jobs, ExtractionSettings(**settings))
    keys, matrix = read_vectors(out / "xvector.scp")
    assert len(keys) == count and keys == sorted(keys)
    return keys, matrix


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A data directory of noises of 0.03 to 4 s."""
    folder = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(30):
        wave = rng.normal(0, 0.1, int(16000 * rng.uniform(0.03, 4)))
        soundfile.write(folder / f"{number:02d}.wav", wave, 16000)
        lines.append(f"u{number:02d} {folder}/{number:02d}.wav\n")
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "utt2spk").write_text("".join(f"u{number:02d} s\n" for number in range(30)))
    return folder


def waves_of(folder):
    data = DataDir.load(folder)
    return {key: soundfile.read(data.wav[key], dtype="float32")[0] for key in data.utterances}


def assert_same(one, other):
    assert one[0] == other[0]
    scale = np.abs(one[1]).max()
    np.testing.assert_allclose(one[1], other[1], atol=1e-5 * scale)


@pytest.mark.parametrize("batch_seconds", [3, 20, 1000])
def test_batches_give_what_one_by_one_gives(model_dir, uneven, tmp_path, batch_seconds):
    single = run(model_dir, uneven, tmp_path / "single", batch_seconds=0)
    batched = run(model_dir, uneven, tmp_path / "batched", batch_seconds=batch_seconds)
    assert_same(batched, single)


def test_loader_threads_change_nothing(model_dir, uneven):
    source = open_source(uneven)
    settings = ExtractionSettings(batch_seconds=8)
    parts = [range(13), range(13, 30)]
    results = [list(Embedder(model_dir, source, settings, "cpu", n)(parts)) for n in (0, 4)]
    for one, other in zip(*results, strict=True):
        assert one.key == other.key
        np.testing.assert_array_equal(one.embedding, other.embedding)


def test_shards_and_raw_lists_give_what_the_data_directory_gives(model_dir, uneven, tmp_path):
    expected = run(model_dir, uneven, tmp_path / "data")
    make_shards(uneven, tmp_path / "shards", tmp_path / "shard.list", utterances_per_shard=7)
    make_raw_list(uneven, tmp_path / "raw.list")
    index_shards(tmp_path / "raw.list", 1)
    for listed in ("shard.list", "raw.list"):
        found = run(model_dir, open_source(shards=tmp_path / listed), tmp_path / f"of_{listed}")
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])


def test_other_rates_in_shards_are_resampled(model_dir, tmp_path):
    time = np.arange(48000) / 48000
    wave = 0.1 * sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 660, 1500))
    soundfile.write(tmp_path / "a.flac", wave, 48000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.flac\n")
    (tmp_path / "utt2spk").write_text("a s\n")
    expected = run(model_dir, tmp_path, tmp_path / "data")
    make_shards(tmp_path, tmp_path / "shards", tmp_path / "shard.list", sample_rate=48000)
    found = run(model_dir, open_source(shards=tmp_path / "shard.list"), tmp_path / "shard")
    assert_same(found, expected)


def test_exactly_one_source(tmp_path):
    for arguments in ({}, {"data": "a", "shards": "b"}):
        with pytest.raises(ConfigError, match="either --data DIR or --shards LIST"):
            open_source(**arguments)


def test_long_utterances_get_the_mean_of_their_chunks(
    model_dir, uneven, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(get_logger(), "propagate", True)
    keys, matrix = run(model_dir, uneven, tmp_path / "out", chunk_seconds=1, batch_seconds=5)
    model = SpeakerModel.from_pretrained(model_dir)
    longer = 0
    for key, found in zip(keys, matrix, strict=True):
        wave = torch.from_numpy(waves_of(uneven)[key])
        pieces = [wave]
        if len(wave) > 16000:
            longer += 1
            rest = len(wave) - 16000
            count = 1 + -(-rest // 14400)
            pieces = [wave[rest * i // (count - 1) :][:16000] for i in range(count)]
        expected = torch.stack([model.embed(piece) for piece in pieces]).mean(dim=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 5 < longer < 30
    assert f"{longer} utterances are longer than 1 s: their embeddings are means" in caplog.text


def test_crops_are_seeded_and_belong_to_their_utterance(model_dir, uneven, tmp_path):
    first = run(model_dir, uneven, tmp_path / "a", crop_seconds=1)
    again = run(model_dir, uneven, tmp_path / "b", crop_seconds=1, batch_seconds=9)
    assert_same(again, first)
    other = run(model_dir, uneven, tmp_path / "c", crop_seconds=1, seed=43)
    assert np.abs(other[1] - first[1]).max() > 1e-3
    source = open_source(uneven)
    load = Loader(source, ExtractionSettings(crop_seconds=1))
    starts = []
    for row, key in enumerate(source.keys):
        wave, crop = waves_of(uneven)[key], load(row).wave
        assert len(crop) == 16000
        if len(wave) <= 16000:
            np.testing.assert_array_equal(crop, np.tile(wave, 16000 // len(wave) + 1)[:16000])
            continue
        [start] = [
            at
            for at in np.flatnonzero(wave[: len(wave) - 15999] == crop[0])
            if (wave[at : at + 16000] == crop).all()
        ]
        starts.append(start / (len(wave) - 16000))
    assert np.std(starts) > 0.15 and 0.2 < np.mean(starts) < 0.8


def test_only_speech_is_embedded(model_dir, tmp_path):
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 1e-4, 48000)
    wave[16000:40000] += rng.normal(0, 0.1, 24000)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.zeros(16000), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb {tmp_path}/b.wav\n")
    (tmp_path / "utt2spk").write_text("a s\nb s\n")
    (tmp_path / "vad").write_text("a 0.5 1\na 2 2.75\n")
    wave = wave.astype(np.float32)
    model = SpeakerModel.from_pretrained(model_dir)
    wanted = {
        "energy": keep_speech(wave, energy_vad(wave)),
        "table": np.concatenate([wave[8000:16000], wave[32000:44000]]),
    }
    for vad, speech in wanted.items():
        out = tmp_path / vad
        with pytest.raises(DataError, match=rf"b: no speech in 1.00 s by --vad {vad}"):
            run(model_dir, tmp_path, out, vad=vad)
        keys, matrix = run(model_dir, tmp_path, out, vad=vad, max_bad=1)
        assert keys == ["a"]
        np.testing.assert_allclose(matrix[0], model.embed(torch.from_numpy(speech)), atol=1e-5)
        assert (out / "bad.txt").read_text() == f"b: no speech in 1.00 s by --vad {vad}\n"


def test_a_missing_table_of_speech_is_named(model_dir, uneven, tmp_path):
    with pytest.raises(ConfigError, match=r"--vad table: .* has no file 'vad'"):
        run(model_dir, uneven, tmp_path / "out", vad="table")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_seconds": -1}, "--batch_seconds must not be negative"),
        ({"chunk_seconds": 0.5}, "--chunk_seconds must be 0 or at least 1"),
        ({"vad": "loud"}, "--vad must be none, energy, silero or table"),
        ({"max_bad": -1}, "--max_bad must not be negative"),
    ],
)
def test_settings_out_of_range_are_named(model_dir, uneven, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(model_dir, uneven, tmp_path / "out", **settings)


def test_other_settings_are_extracted_again(model_dir, uneven, tmp_path):
    out = tmp_path / "out"
    whole = run(model_dir, uneven, out)[1]
    assert np.abs(run(model_dir, uneven, out, crop_seconds=0.5)[1] - whole).max() > 1e-3
    assert np.abs(run(model_dir, uneven, out, chunk_seconds=1)[1] - whole).max() > 1e-3
    np.testing.assert_array_equal(run(model_dir, uneven, out)[1], whole)


def test_what_does_not_fit_the_memory_is_halved_and_at_last_named(
    model_dir, uneven, tmp_path, monkeypatch
):
    expected = run(model_dir, uneven, tmp_path / "a")
    embed = SpeakerModel.embed

    def small_device(self, waves, lengths=None):
        if waves.numel() > 3.5 * 16000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(self, waves, lengths)

    monkeypatch.setattr(embedder.SpeakerModel, "embed", small_device)
    with pytest.raises(DataError, match=r"u\d\d: 4 s at once do not fit.*--chunk_seconds 60"):
        run(model_dir, uneven, tmp_path / "b", batch_seconds=30)
    keys, matrix = run(model_dir, uneven, tmp_path / "b", batch_seconds=30, max_bad=9)
    assert 20 < len(keys) < 30
    rows = [expected[0].index(key) for key in keys]
    assert_same((keys, matrix), (keys, expected[1][rows]))
