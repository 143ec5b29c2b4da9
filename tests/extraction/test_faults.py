"""What goes wrong is named with its key and its mend; nothing wrong is kept."""

import errno
import json
import resource
import shutil

import numpy as np
import pytest
import soundfile
import torch

from wesp_lap.errors import DataError
from wesp_lap.extraction import ExtractionSettings, extract, open_source, run
from wesp_lap.extraction.embedder import SpeakerModel
from wesp_lap.extraction.parts import VectorWriter
from wesp_lap.kaldi.ark import read_vectors
from wesp_lap.tensors import load_tensors, save_tensors


@pytest.fixture
def data(tmp_path):
    """A data directory with six noises a to f."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for key in "abcdef":
        soundfile.write(folder / f"{key}.wav", rng.normal(0, 0.1, 8000), 16000)
    (folder / "wav.scp").write_text("".join(f"{key} {folder}/{key}.wav\n" for key in "abcdef"))
    (folder / "utt2spk").write_text("".join(f"{key} s\n" for key in "abcdef"))
    return folder


@pytest.fixture
def model(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "model")


def change_weights(model, name, value):
    tensors = load_tensors(model / "model.safetensors")
    tensors[name] = torch.full_like(tensors[name], value)
    save_tensors(model / "model.safetensors", tensors)


def test_an_embedding_that_is_not_finite_is_named(model, data, tmp_path, monkeypatch):
    embed = SpeakerModel.embed

    @torch.inference_mode()
    def broken(self, waves, lengths=None):
        embeddings = embed(self, waves, lengths).clone()
        embeddings[1, 3] = float("nan")
        embeddings[2] = 0
        return embeddings

    monkeypatch.setattr(SpeakerModel, "embed", broken)
    settings = ExtractionSettings(batch_seconds=10)
    with pytest.raises(DataError) as caught:
        extract(model, data, tmp_path / "out", "cpu", 1, settings)
    lines = str(caught.value).splitlines()
    assert "no embedding possible (2 problems)" in lines[0]
    assert lines[1] == "  b: the embedding holds NaN or infinite numbers"
    assert lines[2] == "  c: the embedding is zero"
    assert "--max_bad N" in lines[3]


def test_a_model_that_is_broken_ends_the_work_early(model, data, tmp_path, monkeypatch):
    change_weights(model, "backend.time_pool.embedding.bias", float("nan"))
    monkeypatch.setattr(run, "PART", 2)
    monkeypatch.setattr(run, "_HOPELESS", 3)
    with pytest.raises(DataError, match=r"\(4 problems\)(.|\n)*d: the embedding holds NaN"):
        extract(model, data, tmp_path / "out", "cpu", 1)


def test_without_any_embedding_nothing_is_written(model, data, tmp_path):
    change_weights(model, "backend.time_pool.embedding.bias", float("nan"))
    with pytest.raises(DataError, match="not one utterance has an embedding"):
        extract(model, data, tmp_path / "out", "cpu", 1, ExtractionSettings(max_bad=6))
    assert not (tmp_path / "out" / "xvector.scp").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("config.json", lambda path: path.unlink(), r"no speaker model here"),
        ("config.json", cut, r"config\.json: not valid JSON"),
        ("config.json", lambda path: path.write_text("[]"), r"config\.json: not a JSON object"),
        ("config.json", lambda path: path.write_text("{}"), r"config\.json: 'frontend' is missing"),
        ("model.safetensors", lambda path: path.unlink(), r"model\.safetensors: no such file"),
        ("model.safetensors", cut, r"model\.safetensors: damaged weights"),
        ("model.safetensors", lambda path: path.write_bytes(b""), r"damaged weights"),
    ],
)
def test_a_damaged_model_is_named(model, data, tmp_path, name, damage, message):
    damage(model / name)
    with pytest.raises(DataError, match=message):
        extract(model, data, tmp_path / "out", "cpu", 1)


def test_bad_utterances_up_to_a_limit_are_left_out_and_listed(model, data, tmp_path):
    (data / "b.wav").unlink()
    (data / "e.wav").write_bytes(b"no audio")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"\(2 problems\)"):
        extract(model, data, out, "cpu", 1, ExtractionSettings(max_bad=1))
    assert not (out / "xvector.scp").exists()
    assert extract(model, data, out, "cpu", 1, ExtractionSettings(max_bad=2)) == 4
    assert read_vectors(out / "xvector.scp")[0] == ["a", "c", "d", "f"]
    lines = (out / "bad.txt").read_text().splitlines()
    assert [line[:3] for line in lines] == ["b: ", "e: "]
    assert "no such file" in lines[0] and "cannot be read as audio" in lines[1]
    assert extract(model, data, out, "cpu", 1, ExtractionSettings(max_bad=2)) == 4
    with pytest.raises(DataError, match=r"\(2 problems\)"):
        extract(model, data, out, "cpu", 1)
    shutil.copy(data / "a.wav", data / "b.wav")
    shutil.copy(data / "a.wav", data / "e.wav")
    assert extract(model, data, out, "cpu", 1) == 6
    assert not (out / "bad.txt").exists()


def test_a_damaged_shard_is_named_with_the_utterance(model, data, tmp_path):
    from wesp_lap.data.shards import make_shards

    make_shards(data, tmp_path / "shards", tmp_path / "shard.list")
    tar = tmp_path / "shards" / "shards_000000000.tar"
    content = bytearray(tar.read_bytes())
    content[5000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"wrong block sums(.|\n)*wesp_lap\.bin\.check_shards"):
        extract(model, open_source(shards=tmp_path / "shard.list"), tmp_path / "out", "cpu", 1)


def test_a_full_disk_is_an_error_with_a_name_and_leaves_no_half_files(
    model, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "PART", 3)
    write = VectorWriter.write

    def until_the_fourth(self, key, vector):
        if key == "e":
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x.ark"))
        write(self, key, vector)

    with monkeypatch.context() as patch:
        patch.setattr(VectorWriter, "write", until_the_fourth)
        with pytest.raises(DataError, match=r"x\.ark: No space left on device; parts that are"):
            extract(model, data, tmp_path / "out", "cpu", 1)
    kept = sorted(path.name for path in (tmp_path / "out" / "parts").rglob("*") if path.is_file())
    assert kept == ["done.json", "short.txt", "xvector.ark", "xvector.json", "xvector.scp"]
    assert extract(model, data, tmp_path / "out", "cpu", 1) == 6


def test_a_limit_on_files_is_an_error_with_a_name(model, data, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(DataError, match=r"File too large; parts that are done are kept"):
            extract(model, data, tmp_path / "out", "cpu", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert extract(model, data, tmp_path / "out", "cpu", 1) == 6


def test_parts_of_other_settings_or_models_are_never_joined(model, make_model, data, tmp_path):
    """Parts are on the disk, the end of the run was not reached."""
    out = tmp_path / "out"
    (data / "f.wav").rename(data / "g.wav")
    shutil.copytree(model, tmp_path / "other")
    for source in (make_model(1), model):
        with pytest.raises(DataError):
            extract(source, data, out, "cpu", 1)
    shutil.copy(data / "g.wav", data / "f.wav")
    extract(model, data, out, "cpu", 1)
    extract(model, data, tmp_path / "clean", "cpu", 1)
    one, other = (read_vectors(folder / "xvector.scp")[1] for folder in (out, tmp_path / "clean"))
    np.testing.assert_array_equal(one, other)


def test_a_stamp_of_the_embeddings_says_what_they_are_made_of(model, data, tmp_path):
    extract(model, data, tmp_path / "out", "cpu", 1, ExtractionSettings(crop_seconds=0.25, seed=7))
    settings = json.loads((tmp_path / "out" / "done.json").read_text())["settings"]
    assert settings["crop"] == [0.25, 7] and settings["vad"] == "none"


def test_utterances_too_short_for_the_model_are_flagged(model, data, tmp_path, caplog):
    for key, samples in (("b", 719), ("e", 300), ("f", 720)):
        soundfile.write(data / f"{key}.wav", np.full(samples, 0.1), 16000)
    out = tmp_path / "out"
    assert extract(model, data, out, "cpu", 1) == 6
    assert (out / "short.txt").read_text() == "b 719\ne 300\n"
    assert "2 utterances are shorter than the model needs and were repeated" in caplog.text
    for key in "be":
        soundfile.write(data / f"{key}.wav", np.full(8000, 0.1), 16000)
    extract(model, data, out, "cpu", 1)
    assert not (out / "short.txt").exists()
