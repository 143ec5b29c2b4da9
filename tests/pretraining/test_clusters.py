"""K-means and assignment against brute force; clusters of a corpus and what can go wrong."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

from wesp_lap.audio.mfcc import Mfcc, add_deltas
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction import open_source
from wesp_lap.pretraining import learning
from wesp_lap.pretraining.clusters import Clusters, KMeansSettings, fit, inertia
from wesp_lap.pretraining.features import FeatureSettings, Framing
from wesp_lap.pretraining.frames import Workers
from wesp_lap.pretraining.learning import Sampling, choose, learn_clusters

FRAMING = Framing(400, 160)
HERE = Workers("cpu", 1)
MFCC = FeatureSettings()


def clusters_of(centroids) -> Clusters:
    return Clusters(np.asarray(centroids, np.float32), {"kind": "mfcc"}, FRAMING, {})


def brute_force(frames, centroids):
    """The nearest centroid of each frame, one difference at a time."""
    labels = []
    for frame in frames.astype(np.float64):
        distances = [((frame - centroid) ** 2).sum() for centroid in centroids.astype(np.float64)]
        labels.append(int(np.argmin(distances)))
    return labels


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dim, count", [(1, 2), (39, 100), (64, 7)])
def test_assignment_is_that_of_brute_force(dim, count, offset):
    rng = np.random.default_rng(dim)
    frames = (rng.normal(0, 3, (300, dim)) + offset).astype(np.float32)
    centroids = (rng.normal(0, 3, (count, dim)) + offset).astype(np.float32)
    labels = clusters_of(centroids).assign(frames)
    assert labels.dtype == np.uint16
    assert labels.tolist() == brute_force(frames, centroids)


def test_worked_assignment():
    labels = clusters_of([[0, 0], [4, 0], [0, 3]]).assign(
        np.array([[1, 1], [3, 1], [0, 2], [2, 0], [0, 1.5], [1.9, 0]], np.float32)
    )
    assert labels.tolist() == [0, 1, 2, 0, 0, 0]  # the fourth and fifth lie in the middle


def test_equal_frames_share_a_label_and_ties_take_the_first():
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(37, 39))
    centroids[20:] = centroids[:17]  # each is there twice
    frame = rng.normal(size=39)
    labels = clusters_of(centroids).assign(np.tile(frame, (20_001, 1)).astype(np.float32))
    assert len(set(labels.tolist())) == 1 and labels[0] < 20
    many = clusters_of(centroids).assign(rng.normal(size=(5000, 39)).astype(np.float32))
    assert many.max() < 20


def test_tensors_are_assigned_like_arrays():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(50, 4)).astype(np.float32)
    clusters = clusters_of(rng.normal(size=(9, 4)))
    assert np.array_equal(clusters.assign(torch.from_numpy(frames)), clusters.assign(frames))
    assert clusters.assign(frames[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"\(T, 4\), got \(50, 3\)"):
        clusters.assign(frames[:, :3])


def test_k_means_finds_what_is_there():
    rng = np.random.default_rng(0)
    centres = rng.uniform(-50, 50, (8, 5))
    which = rng.integers(8, size=4000)
    frames = (centres[which] + rng.normal(0, 0.5, (4000, 5))).astype(np.float32)
    settings = KMeansSettings(8, batch_size=500)
    centroids, _ = fit(frames, settings)
    gaps = np.linalg.norm(centres[:, None] - centroids[None], axis=2)
    assert sorted(gaps.argmin(axis=1)) == list(range(8)) and gaps.min(axis=1).max() < 0.2
    assert np.array_equal(fit(frames, settings)[0], centroids)
    clusters = clusters_of(centroids)
    labels = clusters.assign(frames)
    assert inertia(frames, clusters, labels) == pytest.approx(
        np.mean([((frames[i] - centroids[labels[i]]) ** 2).sum() for i in range(4000)]), rel=1e-5
    )


def test_too_few_frames_are_counted():
    with pytest.raises(DataError, match=r"7 frames for 8 clusters(.|\n)*--fraction"):
        fit(np.zeros((7, 2), np.float32), KMeansSettings(8))


@pytest.mark.parametrize("options", [{"num_clusters": 1}, {"num_clusters": 65537}, {"n_init": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError):
        KMeansSettings(**options)


def test_saved_clusters_come_back(tmp_path):
    rng = np.random.default_rng(0)
    clusters = clusters_of(rng.normal(size=(5, 39)))
    clusters.record["model"] = None
    clusters.save(tmp_path)
    again = Clusters.load(tmp_path)
    assert np.array_equal(again.centroids, clusters.centroids)
    assert (again.features, again.framing, again.digest, again.record) == (
        clusters.features,
        clusters.framing,
        clusters.digest,
        {"model": None},
    )
    other = dataclasses.replace(clusters, features={"kind": "layer"})
    assert other.digest != clusters.digest


def test_damaged_clusters_are_refused(tmp_path):
    with pytest.raises(DataError, match="learn_clusters"):
        Clusters.load(tmp_path / "none")
    clusters_of([[0, 1], [2, 3]]).save(tmp_path)
    tensors = load_file(tmp_path / "clusters.safetensors")
    save_file({"centroids": tensors["centroids"] + 1}, tmp_path / "clusters.safetensors")
    with pytest.raises(DataError, match=r"clusters\.safetensors: damaged"):
        Clusters.load(tmp_path)
    save_file({"centroids": tensors["centroids"][:1]}, tmp_path / "clusters.safetensors")
    with pytest.raises(DataError, match="of other clusters"):
        Clusters.load(tmp_path)
    (tmp_path / "clusters.json").write_text("[]")
    with pytest.raises(DataError, match=r"clusters\.json: not a record"):
        Clusters.load(tmp_path)


def test_utterances_are_chosen_by_seed_and_key():
    keys = [f"id{n}" for n in range(5000)]
    rows = choose(keys, Sampling(0.1, seed=3))
    assert 400 < len(rows) < 600 and rows == sorted(rows)
    chosen = {keys[row] for row in rows}
    turned = keys[::-1]
    assert {turned[row] for row in choose(turned, Sampling(0.1, seed=3))} == chosen
    assert {keys[row] for row in choose(keys[:900], Sampling(0.1, seed=3))} <= chosen
    assert {keys[row] for row in choose(keys, Sampling(0.1, seed=4))} != chosen
    assert len(choose(keys, Sampling(1.0))) == 5000
    with pytest.raises(DataError, match="none of 2 utterances"):
        choose(["a", "b"], Sampling(1e-9))
    with pytest.raises(ConfigError, match="fraction"):
        Sampling(0.0)


def test_clusters_of_a_corpus(tiny_corpus, tmp_path):
    settings = KMeansSettings(10, batch_size=1000, n_init=2)
    source = open_source(tiny_corpus.data)
    (tmp_path / ".frames").mkdir()
    (tmp_path / ".frames" / "frames").write_bytes(b"of a run that was killed")
    clusters = learn_clusters(source, tmp_path, MFCC, settings, Sampling(1.0), HERE, True)
    record = json.loads((tmp_path / "clusters.json").read_text())
    frames = np.concatenate(
        [
            add_deltas(Mfcc(scale=1.0)(torch.from_numpy(source.load(row)).unsqueeze(0)))[0].numpy()
            for row in range(32)
        ]
    )
    assert record["fitted_on"]["frames"] == record["fitted_on"]["frames_seen"] == len(frames)
    np.testing.assert_allclose(clusters.centroids, fit(frames, settings)[0], rtol=1e-5)
    quality = json.loads((tmp_path / "quality.json").read_text())
    assert quality["counts"] == np.bincount(clusters.assign(frames), minlength=10).tolist()
    assert 0.3 < quality["agreement"]["seed 1"]["adjusted"] <= 1
    assert record["inertia_per_frame"] > 0
    assert not list(tmp_path.glob(".frames*"))


def test_a_second_run_keeps_what_was_learnt(tiny_corpus, tmp_path):
    settings, sampling = KMeansSettings(4, batch_size=500, n_init=1), Sampling(0.5)
    source = open_source(tiny_corpus.data)
    first = learn_clusters(source, tmp_path, MFCC, settings, sampling, HERE)
    date = (tmp_path / "clusters.safetensors").stat().st_mtime_ns
    again = learn_clusters(source, tmp_path, MFCC, settings, sampling, HERE)
    assert (tmp_path / "clusters.safetensors").stat().st_mtime_ns == date
    assert again.digest == first.digest
    other = dataclasses.replace(settings, seed=1)
    assert learn_clusters(source, tmp_path, MFCC, other, sampling, HERE).digest != first.digest


def test_frames_beyond_the_budget_are_thinned_evenly(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "_PART", 4)
    fitted = []

    def keep(frames, settings):
        fitted.append(np.array(frames))
        return fit(frames, settings)

    monkeypatch.setattr(learning, "fit", keep)
    settings = KMeansSettings(2, batch_size=100, n_init=1)
    source = open_source(tiny_corpus.data)
    for name, most in (("all", 10**6), ("some", 800)):
        learn_clusters(source, tmp_path / name, MFCC, settings, Sampling(1.0, most), HERE)
    everything = {row.tobytes(): place for place, row in enumerate(fitted[0])}
    places = [everything[row.tobytes()] for row in fitted[1]]
    assert len(places) == 800 and places == sorted(set(places))
    parts = np.histogram(places, bins=8, range=(0, len(fitted[0])))[0]
    assert parts.min() > 80


def write_corpus(folder, waves):
    folder.mkdir()
    for key, wave in waves.items():
        soundfile.write(folder / f"{key}.wav", wave, 16000)
    (folder / "wav.scp").write_text("".join(f"{key} {folder}/{key}.wav\n" for key in waves))
    (folder / "utt2spk").write_text("".join(f"{key} s\n" for key in waves))
    return open_source(folder)


def noise(number, samples=8000):
    return np.random.default_rng(number).normal(0, 0.1, samples).clip(-0.9, 0.9)


def test_utterances_without_features_are_all_named(tmp_path):
    waves = {"a": noise(0), "b": noise(1, 399), "c": noise(2, 100), "d": noise(3)}
    source = write_corpus(tmp_path / "data", waves)
    (tmp_path / "data" / "d.wav").write_bytes(b"no audio")
    with pytest.raises(DataError) as caught:
        learn_clusters(source, tmp_path / "out", MFCC, KMeansSettings(2), Sampling(1.0), HERE)
    lines = str(caught.value).splitlines()
    assert "utterances without features (3 problems)" in lines[0]
    assert lines[1] == "  b: 399 samples, but a frame takes 400" and lines[2].startswith("  c: 100")
    assert lines[3].startswith("  d: ") and "cannot be read as audio" in lines[3]
    assert "Mend these files" in lines[4]
    assert not (tmp_path / "out" / "clusters.json").exists()


def test_silence_is_counted_and_dead_clusters_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("wesp_lap"), "propagate", True)
    waves = {"quiet": np.zeros(8000), "still": np.zeros(4000)}
    source = write_corpus(tmp_path / "data", waves)
    clusters = learn_clusters(
        source, tmp_path / "out", MFCC, KMeansSettings(3, n_init=1), Sampling(1.0), HERE
    )
    assert clusters.record["fitted_on"]["constant_utterances"] == 2
    assert "2 utterances have the same features in all frames, as silence has: quiet, still" in (
        caplog.text
    )
    assert "2 of 3 clusters have none of 71 frames" in caplog.text
    assert len(json.loads((tmp_path / "out" / "quality.json").read_text())["dead"]) == 2


def test_features_that_are_not_finite_are_named(tmp_path, monkeypatch):
    from wesp_lap.pretraining import features

    source = write_corpus(tmp_path / "data", {"a": noise(0), "b": noise(1)})
    bad = Mfcc(scale=1.0)(torch.from_numpy(source.load(1)).unsqueeze(0))

    def broken(frames):
        return add_deltas(frames) / (0 if torch.equal(frames, bad) else 1)

    monkeypatch.setattr(features, "add_deltas", broken)
    with pytest.raises(DataError, match=r"\(1 problem\)(.|\n)*b: the features hold NaN"):
        learn_clusters(source, tmp_path / "out", MFCC, KMeansSettings(2), Sampling(1.0), HERE)
