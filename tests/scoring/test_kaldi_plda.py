"""Kaldi's PLDA files: scores of Kaldi's own programs, and every kind of damage."""

import struct
from pathlib import Path

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.kaldi_plda import (
    load_backend,
    read_backend,
    read_matrix,
    read_plda,
    read_vector,
)
from wesp_lap.scoring.plda_backend import train_backend

FILES = Path(__file__).parent / "kaldi_plda"


def text_ark(name):
    lines = [line.split() for line in (FILES / name).read_text().splitlines()]
    matrix = np.array([line[2:-1] for line in lines], np.float32)
    return Embeddings([line[0] for line in lines], matrix, name)


def models():
    lines = (FILES / "spk2utt").read_text().splitlines()
    return {speaker: keys.split() for speaker, keys in (line.split(" ", 1) for line in lines)}


def kaldi_scores(name):
    lines = [line.split() for line in (FILES / name).read_text().splitlines()]
    trials = Trials([line[0] for line in lines], [line[1] for line in lines], None)
    return trials, np.array([float(line[2]) for line in lines])


def kaldi_formula(plda, enroll, count, test):
    """Plda::LogLikelihoodRatio, one trial at a time."""
    psi = plda.psi
    mean = count * psi / (count * psi + 1) * enroll
    variance = 1 + psi / (count * psi + 1)
    given = -0.5 * (np.log(variance).sum() + ((test - mean) ** 2 / variance).sum())
    without = -0.5 * (np.log(psi + 1).sum() + (test**2 / (psi + 1)).sum())
    return given - without


@pytest.mark.parametrize(
    ("scores", "count", "normalize"),
    [("scores.book", "book", True), ("scores.one", "one", True), ("scores.plain", "book", False)],
)
def test_scores_are_those_of_ivector_plda_scoring(scores, count, normalize):
    trials, expected = kaldi_scores(scores)
    backend = read_backend(
        FILES / "plda", FILES / "transform.mat", FILES / "mean.vec", normalize_length=normalize
    )
    train = text_ark("train.ark")
    found = backend.score(trials, train, train, models(), count)
    # Kaldi writes six digits and holds projected vectors as floats.
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_score_follows_kaldis_formula_trial_by_trial():
    plda = read_plda(FILES / "plda")
    backend = read_backend(FILES / "plda", length_norm=False, normalize_length=False)
    vectors = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    embeddings = Embeddings(list("abcdef"), vectors, "x")
    enroll = {"m": ["a", "b", "c"], "n": ["d"]}
    trials = Trials(["m", "m", "n"], ["e", "f", "f"], None)
    sides = plda.project(vectors.astype(float))
    expected = [
        kaldi_formula(plda, sides[:3].mean(axis=0), 3, sides[4]),
        kaldi_formula(plda, sides[:3].mean(axis=0), 3, sides[5]),
        kaldi_formula(plda, sides[3], 1, sides[5]),
    ]
    np.testing.assert_allclose(
        backend.score(trials, embeddings, embeddings, enroll), expected, rtol=1e-5, atol=1e-5
    )


def test_binary_and_text_hold_the_same_model():
    binary, text = read_plda(FILES / "plda"), read_plda(FILES / "plda.txt")
    for name in ("mean", "transform", "psi"):
        np.testing.assert_allclose(getattr(text, name), getattr(binary, name), rtol=1e-5)


def utt2spk():
    return {key: speaker for speaker, keys in models().items() for key in keys}


def test_training_from_identity_gives_kaldis_model():
    train = text_ark("train.ark")
    backend = train_backend(train, utt2spk(), "none", 10, "identity")
    theirs = read_plda(FILES / "plda_raw")
    np.testing.assert_allclose(backend.plda.mean, theirs.mean, rtol=1e-5)
    np.testing.assert_allclose(backend.plda.psi, theirs.psi, rtol=1e-5)
    for mine, other in zip(backend.plda.covariances(), theirs.covariances(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_chain_and_training_give_kaldis_recipe():
    train = text_ark("train.ark")
    chain = "mean-subtract | lda:dim=3 | length-norm:to=sqrt-dim"
    backend = train_backend(train, utt2spk(), chain, 10, "identity")
    np.testing.assert_allclose(backend.plda.psi, read_plda(FILES / "plda").psi, rtol=1e-3)


def test_adaptation_gives_kaldis_model():
    backend = read_backend(FILES / "plda_raw", length_norm=False)
    adapted = backend.adapted(text_ark("other.ark"))
    theirs = read_plda(FILES / "plda_adapted")
    np.testing.assert_allclose(adapted.plda.mean, theirs.mean, rtol=1e-5)
    np.testing.assert_allclose(adapted.plda.psi, theirs.psi, rtol=1e-4)
    for mine, other in zip(adapted.plda.covariances(), theirs.covariances(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def binary_matrix(values, kind=b"FM "):
    values = np.asarray(values, "<f4" if kind[:1] == b"F" else "<f8")
    sizes = b"".join(b"\4" + struct.pack("<i", size) for size in values.shape)
    return b"\0B" + kind + sizes + values.tobytes()


@pytest.mark.parametrize("kind", [b"FM ", b"DM ", None])
def test_matrices_of_all_forms(tmp_path, kind):
    values = [[1.5, -2, 3], [4, 5.25, 6]]
    text = b" [\n  1.5 -2 3\n  4 5.25 6 ]\n"
    (tmp_path / "m").write_bytes(text if kind is None else binary_matrix(values, kind))
    np.testing.assert_array_equal(read_matrix(tmp_path / "m"), values)


def test_linear_transform_without_offset_column(tmp_path):
    matrix = read_matrix(FILES / "transform.mat")
    assert matrix.shape == (3, 5)
    (tmp_path / "linear").write_bytes(binary_matrix(matrix[:, :4], b"DM "))
    mean = read_vector(FILES / "mean.vec")
    backend = read_backend(FILES / "plda", tmp_path / "linear", FILES / "mean.vec", False)
    vector = np.arange(4.0)[None]
    np.testing.assert_allclose(
        backend.chain.apply(vector, ["x"]), (vector - mean) @ matrix[:, :4].T, rtol=1e-9
    )
    affine = read_backend(FILES / "plda", FILES / "transform.mat", None, False)
    np.testing.assert_allclose(
        affine.chain.apply(vector, ["x"]), vector @ matrix[:, :4].T + matrix[:, 4], rtol=1e-6
    )


def test_every_cut_of_a_file_is_an_error(tmp_path):
    for name, read in [
        ("plda", read_plda),
        ("plda.txt", read_plda),
        ("transform.mat", read_matrix),
        ("mean.vec", read_vector),
    ]:
        content = (FILES / name).read_bytes()
        last = len(content.rstrip()) if not content.startswith(b"\0B") else len(content)
        for stop in range(last - (name == "plda")):  # the last space of a token may be missing
            (tmp_path / "cut").write_bytes(content[:stop])
            with pytest.raises(DataError, match=r"cut: .*at byte"):
                read(tmp_path / "cut")
        (tmp_path / "long").write_bytes(content + b"x")
        with pytest.raises(DataError, match=r"bytes that belong to nothing"):
            read(tmp_path / "long")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0BCM \4", "compressed; write it with copy-matrix --compress=false"),
        (b"\0BFV \4", "expected FM or DM, found b'FV '"),
        (b"\x80\4PKL\0", "expected a Kaldi object in binary or text form"),
        (b"key \0BFM ", "binary or text form"),
        (binary_matrix(np.zeros((0, 3))), r"of size \[0, 3\]"),
        (binary_matrix([[1, np.nan]]), "holds NaN or infinity"),
        (b" [ 1 2\n 3 ]\n", "rows of unequal length"),
        (b" [ 1 two ]\n", "could not convert"),
        (b" [ ]\n", "empty"),
        (b" 1 2 3\n", r"expected numbers between \[ and \]"),
    ],
)
def test_wrong_matrices_are_named(tmp_path, content, message):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(DataError, match=f"m: .*{message}"):
        read_matrix(tmp_path / "m")


def write_text_plda(path, mean, transform, psi):
    rows = "\n".join("  " + " ".join(map(str, row)) for row in transform)
    vectors = [" ".join(map(str, vector)) for vector in (mean, psi)]
    path.write_text(f"<Plda>  [ {vectors[0]} ]\n [\n{rows} ]\n [ {vectors[1]} ]\n</Plda> ")


def test_models_that_do_not_fit_are_named(tmp_path):
    path, unit = tmp_path / "plda", np.eye(2)
    for mean, transform, psi, message in [
        ([0, 0, 0], unit, [1, 1], r"mean \(3,\), transform \(2, 2\) and psi \(2,\)"),
        ([0, 0], unit, [1], "do not fit"),
        ([0, 0], unit, [1, -1], "psi has negative elements"),
        ([0, 0], np.ones((2, 2)), [1, 1], "the transform is singular"),
    ]:
        write_text_plda(path, mean, transform, psi)
        with pytest.raises(DataError, match=message):
            read_plda(path)
    with pytest.raises(DataError, match="plda: expected <Plda>"):
        (tmp_path / "plda").write_bytes(b"\0B<Nnet3> ")
        read_plda(path)
    with pytest.raises(DataError, match="absent: No such file"):
        read_plda(tmp_path / "absent")


def test_parts_that_do_not_fit_together_are_named(tmp_path):
    write_text_plda(tmp_path / "two", [0, 0], np.eye(2), [1, 1])
    with pytest.raises(DataError, match=r"transform\.mat: makes 3 dimensions, the PLDA has 2"):
        read_backend(tmp_path / "two", FILES / "transform.mat")
    with pytest.raises(DataError, match=r"mean\.vec: 4 dimensions, .*two has 2"):
        read_backend(tmp_path / "two", None, FILES / "mean.vec")
    (tmp_path / "mean").write_text(" [ 1 2 ]\n")
    with pytest.raises(DataError, match="takes 5 or 4 dimensions, the mean has 2"):
        read_backend(FILES / "plda", FILES / "transform.mat", tmp_path / "mean")
    backend = read_backend(FILES / "plda", FILES / "transform.mat", FILES / "mean.vec")
    wrong = Embeddings(["a"], np.ones((1, 3), np.float32), "e.scp")
    with pytest.raises(DataError, match=r"e\.scp: embeddings have 3 dimensions.* with 4"):
        backend.score(Trials(["a"], ["a"], None), wrong, wrong)


def test_options_of_kaldi_files_do_not_go_with_a_directory(tmp_path):
    with pytest.raises(ConfigError, match="has its own transforms"):
        load_backend(tmp_path, transform=FILES / "transform.mat")
