"""The chain of transforms: its text, and what each step does to the training data."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring import class_statistics
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.transforms import Chain, fit_chain, parse_chain


def corpus(speakers=12, each=6, dim=5, seed=0):
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(speakers), each)
    mixing = random.normal(size=(dim, dim))
    vectors = random.normal(size=(speakers, dim))[codes] + random.normal(size=(len(codes), dim))
    matrix = (vectors @ mixing + 2).astype(np.float32)
    return Embeddings([f"u{row}" for row in range(len(codes))], matrix, "train.scp"), codes


def applied(chain, embeddings):
    return chain.apply(embeddings.matrix.astype(np.float64), embeddings.keys)


def test_no_step_changes_nothing():
    embeddings, codes = corpus()
    for text in ("", " none "):
        chain, _ = fit_chain(text, embeddings, codes)
        np.testing.assert_array_equal(applied(chain, embeddings), embeddings.matrix)
        assert chain.input_dim is None


def test_mean_subtract():
    embeddings, codes = corpus()
    chain, _ = fit_chain("mean-subtract", embeddings, codes)
    expected = embeddings.matrix.astype(float) - embeddings.matrix.mean(axis=0, dtype=float)
    np.testing.assert_allclose(applied(chain, embeddings), expected, atol=1e-9)


def test_length_norm_in_both_conventions():
    embeddings, codes = corpus()
    for text, length in (("length-norm", 1), ("length-norm:to=sqrt-dim", np.sqrt(5))):
        chain, _ = fit_chain(text, embeddings, codes)
        out = applied(chain, embeddings)
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), length, rtol=1e-12)
        cosines = np.einsum("ij,ij->i", out, embeddings.matrix)
        np.testing.assert_allclose(
            cosines / length / np.linalg.norm(embeddings.matrix, axis=1), 1, rtol=1e-6
        )


def test_whitened_data_has_identity_covariance_and_is_turned_least():
    embeddings, codes = corpus()
    chain, _ = fit_chain("whiten", embeddings, codes)
    out = applied(chain, embeddings)
    np.testing.assert_allclose(np.cov(out.T, bias=True), np.eye(5), atol=1e-9)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-9)
    matrix = chain.steps[0].matrix
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)


def test_lda_has_identity_within_and_spans_what_scikit_learn_finds():
    embeddings, codes = corpus()
    chain, _ = fit_chain("lda:dim=3,floor=0", embeddings, codes)
    out = applied(chain, embeddings)
    assert out.shape == (72, 3)
    own = np.stack([out[codes == code].mean(axis=0) for code in range(12)])[codes]
    np.testing.assert_allclose((out - own).T @ (out - own) / 72, np.eye(3), atol=1e-8)
    between = np.cov(own.T, bias=True)
    np.testing.assert_allclose(between, np.diag(np.diag(between)), atol=1e-8)
    assert np.all(np.diff(np.diag(between)) < 0)
    theirs = LinearDiscriminantAnalysis(solver="eigen", n_components=3)
    theirs.fit(embeddings.matrix.astype(float), codes)
    expected = theirs.transform(embeddings.matrix.astype(float))
    for column in range(3):
        assert abs(np.corrcoef(out[:, column], expected[:, column])[0, 1]) > 1 - 1e-8


@pytest.mark.parametrize("block", [5, 8192])
def test_every_step_is_fitted_on_what_the_steps_before_leave(monkeypatch, block):
    monkeypatch.setattr(class_statistics, "_BLOCK_ROWS", block)
    embeddings, codes = corpus()
    text = "mean-subtract | length-norm | lda:dim=4 | whiten | length-norm:to=sqrt-dim"
    chain, statistics = fit_chain(text, embeddings, codes)
    vectors = embeddings.matrix
    for part in text.split("|"):
        step, _ = fit_chain(part, Embeddings(embeddings.keys, vectors, "x"), codes)
        vectors = step.apply(vectors.astype(np.float64), embeddings.keys)
    out = applied(chain, embeddings)
    np.testing.assert_allclose(np.abs(out), np.abs(vectors), atol=1e-6)
    np.testing.assert_allclose(statistics.mean(), out.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(
        statistics.within() + statistics.between(), np.cov(out.T, bias=True), atol=1e-9
    )
    assert chain.input_dim == 5


def test_record_gives_the_chain_back():
    embeddings, codes = corpus()
    chain, _ = fit_chain("lda:dim=3 | length-norm:to=sqrt-dim | mean-subtract", embeddings, codes)
    again = Chain.from_record(*chain.to_record())
    np.testing.assert_array_equal(applied(again, embeddings), applied(chain, embeddings))
    record, arrays = chain.to_record()
    record[0]["out"] = 4
    with pytest.raises(ValueError, match="step 0"):
        Chain.from_record(record, arrays)


def test_another_mean_replaces_that_of_the_first_step_only():
    embeddings, codes = corpus()
    chain, _ = fit_chain("mean-subtract | length-norm", embeddings, codes)
    moved = chain.with_mean(embeddings.matrix.mean(axis=0) + 1)
    other = Embeddings(embeddings.keys, embeddings.matrix + 1)
    np.testing.assert_allclose(applied(moved, other), applied(chain, embeddings), atol=1e-5)
    lda, _ = fit_chain("lda:dim=2", embeddings, codes)
    assert lda.with_mean(np.zeros(5)) is lda


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean-substract", r"'mean-substract' \(did you mean 'mean-subtract'\?\)"),
        ("lda:dims=3", r"unknown 'dims' \(did you mean 'dim'\?\)"),
        ("lda", "missing dim"),
        ("lda:dim", "expected name:option=value"),
        ("lda:dim=3,dim=4", "every option once"),
        ("lda:dim=many", r"chain\.dim: expected a whole number, got 'many'"),
        ("lda:dim=0", "needs dim >= 1"),
        ("length-norm:to=one", "'one' is not one of unit, sqrt-dim"),
        ("whiten:floor=2", "0 <= floor < 1"),
        ("mean-subtract | | lda:dim=3", "unknown ''"),
        ("lda:dim=[", "cannot read"),
    ],
)
def test_wrong_texts_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_chain(text)


def test_too_many_lda_dimensions_say_what_fits():
    embeddings, codes = corpus(speakers=4)
    with pytest.raises(DataError, match=r"4 speakers and 5 dimensions allow at most lda:dim=3"):
        fit_chain("lda:dim=4", embeddings, codes)


def test_singular_covariances_are_named_unless_floored():
    embeddings, codes = corpus(dim=4)
    flat = np.column_stack([embeddings.matrix, embeddings.matrix[:, :1]]).astype(np.float32)
    flat = Embeddings(embeddings.keys, flat, "flat.scp")
    with pytest.raises(DataError, match=r"(?s)whiten: .* 72 vectors in 5 dim.*rank 4.*floor=1e-4"):
        fit_chain("whiten", flat, codes)
    chain, _ = fit_chain("whiten:floor=1e-4", flat, codes)
    assert np.isfinite(applied(chain, flat)).all()
    with pytest.raises(DataError, match=r"lda: .*rank 4"):
        fit_chain("lda:dim=2,floor=0", flat, codes)
    same = Embeddings(["a", "b"], np.ones((2, 5), np.float32), "same.scp")
    with pytest.raises(DataError, match="rank 0"):
        fit_chain("whiten:floor=0.1", same, np.array([0, 1]))


def test_vectors_without_direction_are_named():
    embeddings, codes = corpus()
    chain, _ = fit_chain("mean-subtract | length-norm", embeddings, codes)
    vectors = np.stack([np.zeros(5), chain.steps[0].offset])
    with pytest.raises(DataError, match=r"(?s)1 vectors are zero.*: bad\n"):
        chain.apply(vectors, ["good", "bad"])
