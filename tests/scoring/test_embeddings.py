"""Look-up, means and models of embeddings against plain numpy loops."""

import struct

import numpy as np
import pytest

from wesp_lap.errors import DataError
from wesp_lap.kaldi import vector_table
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.scoring import embeddings as module
from wesp_lap.scoring.embeddings import EmbeddingFile, Embeddings, enrolment_models


def make(count=10, dim=4, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return Embeddings([f"u{i:02d}" for i in range(count)], matrix, "set.scp")


def write(folder, vectors):
    with VectorWriter(folder / "xvector") as writer:
        for key, vector in vectors.items():
            writer.write(key, np.asarray(vector, np.float32))
    return folder / "xvector.scp"


def test_reads_what_was_written(tmp_path):
    scp = write(tmp_path, {"b": [1, 2, 3], "a": [4, 5, 6]})
    read = Embeddings.read(scp)
    assert read.matrix.dtype == np.float32
    np.testing.assert_array_equal(read.matrix[read.rows(["a", "b"])], [[4, 5, 6], [1, 2, 3]])


def test_zero_and_nan_embeddings_are_named(tmp_path):
    # Written by hand, because our own writer refuses NaN.
    scp, ark = tmp_path / "other.scp", tmp_path / "other.ark"
    records = {"good": [1, 0], "zero": [0, 0], "nan": [1, np.nan], "inf": [np.inf, 1]}
    content, index = b"", ""
    for key, numbers in records.items():
        content += f"{key} ".encode()
        index += f"{key} {ark}:{len(content)}\n"
        content += b"\0BFV \4" + struct.pack("<i2f", 2, *numbers)
    ark.write_bytes(content)
    scp.write_text(index)
    with pytest.raises(DataError) as error:
        Embeddings.read(scp)
    text = str(error.value)
    assert str(scp) in text and "zero: zero" in text and "nan: NaN" in text and "inf: NaN" in text
    assert "good" not in text and "3 problems" in text


def test_a_file_read_in_blocks_gives_the_same_mean_and_speaker_means(tmp_path, monkeypatch):
    one = make(23)
    scp = write(tmp_path, dict(zip(one.keys, one.matrix, strict=True)))
    lines = scp.read_text().splitlines()
    (tmp_path / "other.scp").write_text("\n".join(lines[::-1]))
    utt2spk = {key: f"s{number % 5}" for number, key in enumerate(one.keys)}
    monkeypatch.setattr(vector_table, "_BLOCK_ROWS", 4)
    for name in ("xvector.scp", "other.scp"):
        read = EmbeddingFile(tmp_path / name)
        assert sorted(read.keys) == one.keys and read.dim == one.dim
        np.testing.assert_allclose(read.mean(), one.mean(), atol=1e-6)
        means, expected = read.speaker_means(utt2spk), one.speaker_means(utt2spk)
        assert means.keys == expected.keys
        np.testing.assert_allclose(means.matrix, expected.matrix, atol=1e-6)
        whole = read.read()
        np.testing.assert_array_equal(whole.matrix[whole.rows(one.keys)], one.matrix)


def test_a_file_without_any_usable_vector_names_them_all(tmp_path):
    (tmp_path / "x.ark").write_bytes(b"a \0BFM \4b \0BFM \4")
    (tmp_path / "x.scp").write_text(f"a {tmp_path}/x.ark:2\nb {tmp_path}/x.ark:10\n")
    for use in (EmbeddingFile.read, EmbeddingFile.mean, lambda read: read.dim):
        with pytest.raises(
            DataError, match=r"x\.scp: cannot be read \(2 problems(.|\n)*a: (.|\n)*b: "
        ):
            use(EmbeddingFile(tmp_path / "x.scp"))


def test_lengths_beyond_float32_are_named():
    huge = Embeddings(["fits", "huge"], np.array([[1e30, 0], [3e38, 3e38]], np.float32), "set.scp")
    with pytest.raises(DataError, match=r"set\.scp: 1 embeddings .*beyond float32: huge\n"):
        huge.unit()


def test_missing_keys_are_one_error_with_the_first_five():
    with pytest.raises(DataError) as error:
        make().rows(["u01", *(f"x{i}" for i in range(7)), "x0"])
    text = str(error.value)
    assert "set.scp" in text and "7 of 8" in text and "x0, x1, x2, x3, x4, ..." in text
    assert "x5" not in text


def test_keys_given_twice_are_named():
    twice = Embeddings(["a", "b", "a"], np.ones((3, 2), np.float32), "set.scp")
    with pytest.raises(DataError, match=r"(?s)set\.scp.*twice.*a"):
        twice.rows(["b"])


def test_shape_must_fit():
    with pytest.raises(DataError, match="2 keys"):
        Embeddings(["a", "b"], np.ones((3, 2), np.float32))
    with pytest.raises(DataError, match="no embeddings"):
        Embeddings([], np.ones((0, 2), np.float32))


def test_mean_is_summed_in_double_precision():
    matrix = np.full((200_000, 1), 0.1, np.float32)
    matrix[0] = 1e6
    expected = matrix.astype(np.float64).mean()
    got = Embeddings([str(i) for i in range(len(matrix))], matrix).mean()
    assert got.dtype == np.float32 and got[0] == np.float32(expected)


def test_unit_subtracts_the_mean_and_scales():
    one = make()
    mean = one.mean()
    unit, norms = one.unit(mean, np.array([3, 1]))
    for row, source in enumerate([3, 1]):
        centred = one.matrix[source].astype(float) - mean
        assert norms[row] == pytest.approx(np.linalg.norm(centred), rel=1e-6)
        np.testing.assert_allclose(unit[row], centred / np.linalg.norm(centred), atol=1e-6)
    np.testing.assert_array_equal(one.matrix, make().matrix)


def test_unit_names_what_has_no_direction_and_what_does_not_fit():
    one = make()
    with pytest.raises(DataError, match=r"(?s)equal the mean.*u04.*more utterances"):
        one.unit(one.matrix[4], np.array([2, 4]))
    with pytest.raises(DataError, match="4 dimensions, the mean has 3"):
        one.unit(np.zeros(3))


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_speaker_means_equal_a_loop(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block)
    one = make(23)
    speakers = np.random.default_rng(1).integers(5, size=23)
    utt2spk = {key: f"s{speaker}" for key, speaker in zip(one.keys, speakers, strict=True)}
    means = one.speaker_means(utt2spk)
    assert means.keys == sorted(set(utt2spk.values()))
    for key, mean in zip(means.keys, means.matrix, strict=True):
        own = [one.matrix[i] for i, utt in enumerate(one.keys) if utt2spk[utt] == key]
        np.testing.assert_allclose(mean, np.mean(own, axis=0), atol=1e-6)


def test_speaker_means_name_utterances_without_a_speaker():
    with pytest.raises(DataError, match=r"(?s)8 of 10 utterances: u02.*utt2spk"):
        make().speaker_means({"u00": "a", "u01": "b"})


def test_speaker_means_warn_of_missing_embeddings(caplog):
    utt2spk = {f"u{i:02d}": "a" for i in range(12)}
    with caplog.at_level("WARNING", logger="wesp_lap"):
        make().speaker_means(utt2spk)
    assert "2 of the 12 utterances in utt2spk have no embedding" in caplog.text


@pytest.mark.parametrize("use_mean", [False, True])
def test_enrolment_models_average_directions(use_mean):
    one = make()
    mean = one.mean() if use_mean else None
    models = enrolment_models(one, {"m2": ["u03"], "m1": ["u00", "u05", "u01"]}, mean)
    assert models.keys == ["m1", "m2"]
    shift = mean if use_mean else 0
    centred = [one.matrix[i] - shift for i in (0, 5, 1)]
    lengths = [np.linalg.norm(vector) for vector in centred]
    direction = np.mean([v / n for v, n in zip(centred, lengths, strict=True)], axis=0)
    np.testing.assert_allclose(models.matrix[0] - shift, direction * np.mean(lengths), atol=1e-6)
    # A model of one utterance is that utterance.
    np.testing.assert_allclose(models.matrix[1], one.matrix[3], atol=1e-6)


def test_enrolment_models_name_unknown_utterances_and_empty_models():
    with pytest.raises(DataError, match=r"set\.scp: no embedding for 1 of 2 names: nobody"):
        enrolment_models(make(), {"m": ["u00", "nobody"]}, None)
    with pytest.raises(DataError, match=r"(?s)without an utterance.*empty"):
        enrolment_models(make(), {"m": ["u00"], "empty": []}, None)
