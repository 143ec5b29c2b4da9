"""PLDA as a user runs it: training, adaptation, model directories, scores, errors as sentences."""

import json
import subprocess
import sys

import numpy as np
import pytest

from wesp_lap.errors import ConfigError, DataError
from wesp_lap.kaldi.ark import VectorWriter
from wesp_lap.kaldi.scores import read_scores
from wesp_lap.kaldi.trials import Trials, write_trials
from wesp_lap.scoring import metrics, plda_backend
from wesp_lap.scoring.cosine import score_trials
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.lists import TrialFiles
from wesp_lap.scoring.plda_backend import PldaBackend, train_backend
from wesp_lap.scoring.plda_lists import score_plda_lists

DIM = 8
CHAIN = "mean-subtract | lda:dim=6 | length-norm:to=sqrt-dim"


def run(command, *words):
    return subprocess.run(
        [sys.executable, "-m", f"wesp_lap.bin.{command}", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def make_embeddings(prefix, speakers, each, seed, shift=0.5):
    """Vectors whose noise is far larger in some directions, which cosine cannot know."""
    random = np.random.default_rng(seed)
    noise = np.array([5, 5, 5, 0.7, 0.7, 0.7, 0.7, 0.7])
    voices = np.repeat(random.normal(size=(speakers, DIM)), each, axis=0)
    matrix = voices + noise * random.normal(size=voices.shape) + shift
    keys = [f"{prefix}{s}-{u}" for s in range(speakers) for u in range(each)]
    utt2spk = {key: key.split("-")[0] for key in keys}
    return Embeddings(keys, matrix.astype(np.float32), f"{prefix}.scp"), utt2spk


@pytest.fixture(scope="module")
def backend():
    return train_backend(*make_embeddings("c", 200, 6, 1), CHAIN)


@pytest.fixture(scope="module")
def test_set():
    return make_embeddings("t", 20, 6, 2)


def all_pairs(utt2spk, step=3):
    keys = list(utt2spk)
    pairs = [(a, b) for i, a in enumerate(keys) for b in keys[:i:step]]
    labels = np.array([utt2spk[a] == utt2spk[b] for a, b in pairs], np.int8)
    return Trials([a for a, _ in pairs], [b for _, b in pairs], labels)


def by_hand(backend, embeddings, keys):
    rows = [embeddings.keys.index(key) for key in keys]
    vectors = backend.chain.apply(embeddings.matrix[rows].astype(float), keys)
    return backend.plda.project(vectors)


def llr(psi, enroll, count, test):
    """The same score as ratio of p(enroll mean, test) joint and apart, dimension by dimension."""
    score = 0.0
    for d, variance in enumerate(psi):
        joint = np.array([[variance + 1 / count, variance], [variance, variance + 1]])
        pair = np.array([enroll[d], test[d]])
        apart = np.diag(np.diag(joint))
        for sign, matrix in ((1, joint), (-1, apart)):
            quadratic = pair @ np.linalg.solve(matrix, pair)
            score -= sign * 0.5 * (quadratic + np.log(np.linalg.det(matrix)))
    return score


def test_plda_beats_cosine_where_noise_has_directions(backend, test_set):
    embeddings, utt2spk = test_set
    trials = all_pairs(utt2spk)
    scores = backend.score(trials, embeddings, embeddings)
    cosines = score_trials(trials, embeddings, embeddings, embeddings.mean())
    plda_eer, cosine_eer = (metrics.eer(s, trials.labels) for s in (scores, cosines))
    assert plda_eer < 0.6 * cosine_eer
    assert metrics.cllr(scores, trials.labels) < 1


@pytest.mark.parametrize("block", [3, 8192])
@pytest.mark.parametrize("same_set", [True, False])
def test_scores_of_single_utterances(monkeypatch, backend, test_set, block, same_set):
    monkeypatch.setattr(plda_backend, "_BLOCK_ROWS", block)
    embeddings, _ = test_set
    other = embeddings if same_set else make_embeddings("x", 5, 2, 3)[0]
    random = np.random.default_rng(0)
    trials = Trials(
        [str(k) for k in random.choice(embeddings.keys, 40)],
        [str(k) for k in random.choice(other.keys, 40)],
        None,
    )
    scores = backend.score(trials, embeddings, other)
    enroll = by_hand(backend, embeddings, trials.enroll)
    test = by_hand(backend, other, trials.test)
    expected = [llr(backend.plda.psi, e, 1, t) for e, t in zip(enroll, test, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=2e-5)


@pytest.mark.parametrize("same_set", [True, False])
def test_models_of_several_utterances_count_them(backend, test_set, same_set):
    embeddings, _ = test_set
    other = embeddings if same_set else make_embeddings("x", 5, 2, 3)[0]
    models = {"b": ["t3-0", "t0-1", "t0-2"], "a": ["t1-0"], "unused": ["nowhere"]}
    trials = Trials(["b", "a", "b"], [other.keys[i] for i in (5, 5, 7)], None)
    means = {name: by_hand(backend, embeddings, models[name]).mean(axis=0) for name in "ab"}
    tests = by_hand(backend, other, trials.test)
    for rule, counts in (("book", (3, 1, 3)), ("one", (1, 1, 1))):
        scores = backend.score(trials, embeddings, other, models, rule)
        expected = [
            llr(backend.plda.psi, means[name], count, test)
            for name, count, test in zip(trials.enroll, counts, tests, strict=True)
        ]
        np.testing.assert_allclose(scores, expected, atol=2e-5)


def test_a_model_of_one_utterance_is_that_utterance(backend, test_set):
    embeddings, _ = test_set
    single = backend.score(Trials(["t0-0"], ["t0-1"], None), embeddings, embeddings)
    model = backend.score(Trials(["m"], ["t0-1"], None), embeddings, embeddings, {"m": ["t0-0"]})
    np.testing.assert_array_equal(single, model)


def test_enrolment_models_that_cannot_be_made_are_named(backend, test_set):
    embeddings, _ = test_set
    models = {"twice": ["t0-0", "t0-0"], "none": []}
    trials = Trials(["twice", "none", "absent"], ["t1-0"] * 3, None)
    with pytest.raises(DataError) as caught:
        backend.score(trials, embeddings, embeddings, models)
    for part in ("absent: not in the enrolment map", "twice: an utterance twice", "none: no utt"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"t\.scp: no embedding for 1 of 1 names: nobody"):
        backend.score(Trials(["nobody"], ["t1-0"], None), embeddings, embeddings)
    with pytest.raises(DataError, match=r"t\.scp: no embedding for 1 of 1 names: nobody"):
        backend.score(Trials(["m"], ["t1-0"], None), embeddings, embeddings, {"m": ["nobody"]})


def test_adaptation_mends_a_shift_of_the_domain(backend, test_set):
    embeddings, utt2spk = test_set
    moved = Embeddings(embeddings.keys, embeddings.matrix * 1.5 + 4, "moved.scp")
    unlabelled, _ = make_embeddings("a", 100, 2, 9)
    unlabelled = Embeddings(unlabelled.keys, unlabelled.matrix * 1.5 + 4, "other.scp")
    trials = all_pairs(utt2spk)
    before = metrics.cllr(backend.score(trials, moved, moved), trials.labels)
    for method in ("kaldi", "coral"):
        adapted = backend.adapted(unlabelled, method)
        np.testing.assert_allclose(
            adapted.chain.steps[0].offset, unlabelled.matrix.mean(axis=0), rtol=1e-5
        )
        after = metrics.cllr(adapted.score(trials, moved, moved), trials.labels)
        assert after < 0.8 * before
        assert adapted.record["adaptation"]["method"] == method
        assert adapted.record["adaptation"]["utterances"] == 200


def test_saved_model_scores_the_same(tmp_path, backend, test_set):
    embeddings, utt2spk = test_set
    backend.save(tmp_path / "plda")
    again = PldaBackend.load(tmp_path / "plda")
    trials = all_pairs(utt2spk)
    np.testing.assert_array_equal(
        again.score(trials, embeddings, embeddings), backend.score(trials, embeddings, embeddings)
    )
    assert {path.name for path in (tmp_path / "plda").iterdir()} == {
        "plda.json",
        "plda.safetensors",
    }
    again.save(tmp_path / "copy")
    for name in ("plda.json", "plda.safetensors"):
        one, other = (tmp_path / folder / name for folder in ("plda", "copy"))
        assert one.read_bytes() == other.read_bytes()


def test_every_changed_byte_of_a_model_is_noticed(tmp_path, backend):
    backend.save(tmp_path)
    path = tmp_path / "plda.safetensors"
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(DataError, match=r"plda\.safetensors: its content is not what"):
            PldaBackend.load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"plda\.safetensors: No such file.*train the PLDA again"):
        PldaBackend.load(tmp_path)


def test_records_that_are_none_of_ours_are_named(tmp_path, backend):
    with pytest.raises(DataError, match=r"plda\.json: no such file"):
        PldaBackend.load(tmp_path)
    backend.save(tmp_path)
    record = json.loads((tmp_path / "plda.json").read_text())
    for change, message in [
        ({"format": "plda 9"}, "not a PLDA model of this version"),
        (
            {"steps": [*record["steps"][:1], {"name": "lda", "in": 3, "out": 2}]},
            "does not describe",
        ),
        ({"average_raw": None, "steps": None}, "does not describe"),
    ]:
        (tmp_path / "plda.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(DataError, match=rf"plda\.json: {message}"):
            PldaBackend.load(tmp_path)


def test_training_sets_that_say_nothing_are_named():
    embeddings, utt2spk = make_embeddings("c", 20, 6, 1)
    with pytest.raises(DataError, match=r"(?s)each of the 120 speakers has one utterance"):
        train_backend(embeddings, {key: key for key in utt2spk})
    with pytest.raises(DataError, match="one speaker only"):
        train_backend(embeddings, dict.fromkeys(utt2spk, "me"))
    some = dict(list(utt2spk.items())[:110])
    with pytest.raises(DataError, match=r"(?s)no speaker known for 10 of 120.*c18-2.*5 more"):
        train_backend(embeddings, some)
    narrow, _ = make_embeddings("t", 4, 2, 2)
    narrow = Embeddings(narrow.keys, narrow.matrix[:, :5], "narrow.scp")
    trained = train_backend(embeddings, utt2spk)
    with pytest.raises(DataError, match=r"narrow\.scp: embeddings have 5 dimensions.*with 8"):
        trained.score(Trials(["t0-0"], ["t0-1"], None), narrow, narrow)
    with pytest.raises(DataError, match=r"narrow\.scp: embeddings have 5 dimensions"):
        trained.adapted(narrow)


def test_nan_in_trials_is_named(backend, test_set):
    embeddings, _ = test_set
    broken = Embeddings(embeddings.keys, embeddings.matrix.copy(), "broken.scp")
    broken.matrix[3] = np.nan
    with pytest.raises(DataError, match=r"(?s)broken\.scp: embeddings that hold NaN.*t0-3"):
        backend.score(Trials(["t0-3"], ["t0-1"], None), broken, broken)


def write_set(folder, prefix, speakers, each, seed):
    embeddings, utt2spk = make_embeddings(prefix, speakers, each, seed)
    with VectorWriter(folder / prefix) as writer:
        for key, vector in zip(embeddings.keys, embeddings.matrix, strict=True):
            writer.write(key, vector)
    (folder / f"{prefix}.utt2spk").write_text("".join(f"{u} {s}\n" for u, s in utt2spk.items()))
    return utt2spk


def test_commands_from_embeddings_to_error_rates(tmp_path):
    write_set(tmp_path, "c", 60, 5, 1)
    write_set(tmp_path, "a", 60, 1, 3)
    utt2spk = write_set(tmp_path, "t", 12, 5, 2)
    write_trials(tmp_path / "O.kaldi", all_pairs(utt2spk))
    blind = Trials(["m", "n"], ["t1-0", "t2-0"], None)
    write_trials(tmp_path / "blind", blind)
    (tmp_path / "map").write_text("m t1-1 t1-2 t1-3\nn t1-1\n")
    train = ("train_plda", f"--scp={tmp_path / 'c.scp'}", f"--utt2spk={tmp_path / 'c.utt2spk'}")
    done = run(*train, f"--out={tmp_path / 'plda'}", "--chain", CHAIN, "--iterations=4",
               f"--adapt_scp={tmp_path / 'a.scp'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "log-likelihood per utterance" in done.stdout
    record = json.loads((tmp_path / "plda/plda.json").read_text())
    assert record["chain"] == CHAIN and record["training"]["speakers"] == 60
    assert len(record["training"]["log_likelihood"]) == 5
    assert record["adaptation"]["utterances"] == 60
    score = (f"--plda={tmp_path / 'plda'}", f"--enroll_scp={tmp_path / 't.scp'}",
             f"--out_dir={tmp_path / 'scores'}")  # fmt: skip
    done = run("score_plda", *score, f"--trials={tmp_path / 'O.kaldi'}")
    assert done.returncode == 0, done.stderr
    written = tmp_path / "scores/O.kaldi.plda.score"
    assert done.stdout.split() == [str(written)]
    trials, scores = read_scores(written)
    embeddings = Embeddings.read(tmp_path / "t.scp")
    backend = PldaBackend.load(tmp_path / "plda")
    np.testing.assert_allclose(scores, backend.score(trials, embeddings, embeddings), atol=6e-6)
    assert metrics.eer(scores, trials.labels) < 0.3
    done = run("score_plda", *score, f"--trials={tmp_path / 'blind'}",
               f"--enroll_map={tmp_path / 'map'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    trials, scores = read_scores(tmp_path / "scores/blind.plda.score")
    models = {"m": ["t1-1", "t1-2", "t1-3"], "n": ["t1-1"]}
    assert trials.labels is None
    np.testing.assert_allclose(
        scores, backend.score(blind, embeddings, embeddings, models), atol=6e-6
    )
    done = run(*train, f"--out={tmp_path / 'x'}", "--chain=whitten")
    assert done.returncode == 1 and "did you mean 'whiten'?" in done.stderr
    assert not (tmp_path / "x").exists() and "Traceback" not in done.stderr


def test_lists_of_equal_name_would_overwrite_each_other(tmp_path, backend):
    with pytest.raises(ConfigError, match="equal file name: O"):
        score_plda_lists([tmp_path / "a/O", tmp_path / "b/O"], backend, TrialFiles("x"), tmp_path)


@pytest.mark.parametrize("name", ["train_plda", "score_plda", "fuse_scores"])
def test_help_describes_the_arguments(name):
    done = run(name, "--help")
    text = done.stdout + done.stderr
    assert done.returncode == 0 and ("embeddings" in text or "score files" in text)
