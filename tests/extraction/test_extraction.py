import os
import shutil

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from wesp_lap.bin import extract as command
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction import extract, run
from wesp_lap.extraction.loading import Loader
from wesp_lap.kaldi.ark import read_vectors
from wesp_lap.kaldi.datadir import DataDir
from wesp_lap.model import SpeakerModel


@pytest.fixture
def small(tiny_corpus, tmp_path):
    """A data directory with six utterances of the tiny corpus, in files of its own."""
    data = DataDir.load(tiny_corpus.data)
    keys = data.utterances[:6]
    (tmp_path / "wav").mkdir()
    files = {key: shutil.copy(data.wav[key], tmp_path / "wav") for key in keys}
    DataDir(tmp_path, files, {k: data.utt2spk[k] for k in keys}, {}, {}).write(tmp_path / "data")
    return tmp_path / "data"


def expected_embeddings(model_dir, files, cut=slice(None)):
    model = SpeakerModel.from_pretrained(model_dir)
    waves = (soundfile.read(file, dtype="float32")[0][cut] for file in files)
    return np.stack([model.embed(torch.from_numpy(wave)).numpy() for wave in waves])


def files_in(folder):
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_an_embedding_is_that_of_the_whole_utterance_for_any_number_of_jobs(
    model_dir, tiny_corpus, tmp_path
):
    assert extract(model_dir, tiny_corpus.data, tmp_path / "one", "cpu", jobs=1) == 32
    keys, matrix = read_vectors(tmp_path / "one" / "xvector.scp")
    assert keys == tiny_corpus.utterances and matrix.shape == (32, 16)
    files = DataDir.load(tiny_corpus.data).wav
    expected = expected_embeddings(model_dir, [files[key] for key in keys])
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    assert np.ptp(matrix, axis=0).min() > 0  # they do depend on the utterance
    table = kaldiio.load_scp(str(tmp_path / "one" / "xvector.scp"))
    np.testing.assert_array_equal(table[keys[3]], matrix[3])
    extract(model_dir, tiny_corpus.data, tmp_path / "two", "cpu", jobs=2)
    arks = [(tmp_path / name / "xvector.ark").read_bytes() for name in ("one", "two")]
    assert arks[0] == arks[1]


def test_all_bad_files_are_named_and_nothing_is_written(model_dir, small, tmp_path):
    keys = DataDir.load(small).utterances
    files = DataDir.load(small).wav
    os.unlink(files[keys[0]])
    os.truncate(files[keys[2]], 5000)
    soundfile.write(files[keys[3]], np.zeros((16000, 2)), 16000)
    nan = tmp_path / "wav" / "nan.wav"
    soundfile.write(nan, np.full(16000, np.nan), 16000, subtype="FLOAT")
    table = (small / "wav.scp").read_text().replace(files[keys[5]], str(nan))
    (small / "wav.scp").write_text(table)
    with pytest.raises(DataError) as caught:
        extract(model_dir, small, tmp_path / "out", "cpu", jobs=1)
    message = str(caught.value)
    assert f"{small}: no embedding possible (4 problems)" in message
    for key, reason in zip(
        (keys[0], keys[2], keys[3], keys[5]),
        ("no such file", "", "2 channels", "NaN or infinite samples"),
        strict=True,
    ):
        [line] = [line for line in message.splitlines() if line.startswith(f"  {key}: ")]
        assert reason in line
    assert "Mend these files or take them out of the data directory" in message
    assert files_in(tmp_path / "out") == ["bad.txt", "parts"]
    listed = (tmp_path / "out" / "bad.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in listed] == [keys[0], keys[2], keys[3], keys[5]]


def test_what_is_up_to_date_is_kept(model_dir, make_model, small, tmp_path, monkeypatch):
    out, model = tmp_path / "out", tmp_path / "model"
    shutil.copytree(model_dir, model)
    extract(model, small, out, "cpu", jobs=1)
    first = (out / "xvector.ark").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(run, "embedding", lambda *_: pytest.fail("extracted again"))
        assert extract(model, small, out, "cpu", jobs=1) == 6
    for source, same in ((make_model(1), False), (model_dir, True)):
        shutil.copytree(source, model, dirs_exist_ok=True)
        extract(model, small, out, "cpu", jobs=1)
        assert ((out / "xvector.ark").read_bytes() == first) == same
    lines = (small / "utt2spk").read_text().splitlines()
    (small / "utt2spk").write_text("\n".join(lines[1:]) + "\n")
    assert extract(model, small, out, "cpu", jobs=1) == 5
    assert len(read_vectors(out / "xvector.scp")[0]) == 5


@pytest.mark.parametrize("name", ["xvector.ark", "xvector.scp"])
def test_lost_embeddings_are_made_again(model_dir, small, tmp_path, name):
    out = tmp_path / "out"
    extract(model_dir, small, out, "cpu", jobs=1)
    whole = {path: (out / path).read_bytes() for path in files_in(out)}
    (out / name).unlink()
    extract(model_dir, small, out, "cpu", jobs=1)
    assert {path: (out / path).read_bytes() for path in files_in(out)} == whole


def test_segments_are_embedded_each_by_itself(model_dir, small, tmp_path):
    [recording, *_] = DataDir.load(small).utterances
    file = DataDir.load(small).wav[recording]
    (small / "segments").write_text(f"a {recording} 0 0.57\nb {recording} 0.57 2\n")
    (small / "utt2spk").write_text("a s\nb s\n")
    assert extract(model_dir, small, tmp_path / "out", "cpu", jobs=1) == 2
    keys, matrix = read_vectors(tmp_path / "out" / "xvector.scp")
    assert keys == ["a", "b"]
    for row, cut in zip(matrix, (slice(0, 9120), slice(9120, 32000)), strict=True):
        expected = expected_embeddings(model_dir, [file], cut)[0]
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_another_sampling_rate_gives_nearly_the_same_embedding(model_dir, small, tmp_path):
    time = np.arange(2 * 48000) / 48000
    for rate in (16000, 48000):
        tones = sum(np.sin(2 * np.pi * f * time[:: 48000 // rate]) for f in (220, 660, 1500))
        soundfile.write(tmp_path / f"{rate}.wav", 0.1 * tones, rate, subtype="FLOAT")
    (small / "wav.scp").write_text(f"a {tmp_path}/16000.wav\nb {tmp_path}/48000.wav\n")
    (small / "utt2spk").write_text("a s\nb s\n")
    extract(model_dir, small, tmp_path / "out", "cpu", jobs=1)
    first, second = read_vectors(tmp_path / "out" / "xvector.scp")[1]
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) > 0.999


def test_a_device_that_torch_does_not_know_is_named(model_dir, small, tmp_path):
    with pytest.raises(ConfigError, match=r"--device gpu: .*\. Give cpu, or cuda with a GPU"):
        extract(model_dir, small, tmp_path / "out", "gpu")


def test_a_folder_without_a_model_is_named(small, tmp_path):
    with pytest.raises(DataError, match=r"no speaker model here \(config\.json is missing\)"):
        extract(tmp_path / "none", small, tmp_path / "out", "cpu", jobs=1)


def test_the_command_says_how_many_embeddings_there_are(model_dir, small, tmp_path, capsys):
    command.main(str(model_dir), str(tmp_path / "out"), str(small), device="cpu", nj=1)
    assert capsys.readouterr().out == f"{tmp_path / 'out'}/xvector.scp: 6 embeddings\n"


def test_a_stopped_run_goes_on_with_the_parts_that_are_missing(
    model_dir, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "PART", 2)
    extract(model_dir, small, tmp_path / "whole", "cpu", jobs=1)
    keys = DataDir.load(small).utterances
    seen = []
    load = Loader.__call__

    def until_the_fourth(self, row):
        seen.append(row)
        if row == 3:
            raise KeyboardInterrupt
        return load(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "__call__", until_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            extract(model_dir, small, tmp_path / "out", "cpu", jobs=1)
    assert not (tmp_path / "out" / "xvector.scp").exists()
    seen.clear()
    monkeypatch.setattr(Loader, "__call__", lambda self, row: seen.append(row) or load(self, row))
    extract(model_dir, small, tmp_path / "out", "cpu", jobs=1)
    assert seen == list(range(2, len(keys)))
    whole, out = ((tmp_path / name / "xvector.ark").read_bytes() for name in ("whole", "out"))
    assert whole == out
    assert not (tmp_path / "out" / "parts").exists()


def test_replaced_audio_is_extracted_again(model_dir, small, tmp_path):
    extract(model_dir, small, tmp_path / "out", "cpu", jobs=1)
    before = read_vectors(tmp_path / "out" / "xvector.scp")[1]
    key = DataDir.load(small).utterances[0]
    wave, rate = soundfile.read(DataDir.load(small).wav[key])
    soundfile.write(DataDir.load(small).wav[key], wave[: len(wave) // 2], rate)
    extract(model_dir, small, tmp_path / "out", "cpu", jobs=1)
    after = read_vectors(tmp_path / "out" / "xvector.scp")[1]
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1:], after[1:])


def test_a_missing_model_is_named_once_for_any_number_of_jobs(tiny_corpus, tmp_path):
    with pytest.raises(DataError, match="no speaker model here"):
        extract(tmp_path / "nothing", tiny_corpus.data, tmp_path / "out", "cpu", jobs=2)
