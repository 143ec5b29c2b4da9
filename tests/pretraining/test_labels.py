"""Labels of a corpus: what is stored, which frames of a crop they belong to, what goes wrong."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import soundfile
import torch

from wesp_lap.data.shards import make_shards
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.extraction import open_source
from wesp_lap.pretraining import labelling, labels
from wesp_lap.pretraining.clusters import Clusters
from wesp_lap.pretraining.features import FeatureSettings, Framing, MfccFeatures
from wesp_lap.pretraining.frames import Extractor, Workers
from wesp_lap.pretraining.labelling import make_labels
from wesp_lap.pretraining.labels import LabelStore, digest_of, index_of, write_text

HERE = Workers("cpu", 1)
MFCC_FRAMING = Framing(400, 160)


@pytest.fixture(scope="module")
def clusters(tiny_corpus, tmp_path_factory):
    """The directory of twelve clusters whose centroids are frames of the corpus."""
    source = open_source(tiny_corpus.data)
    frames = next(iter(Extractor(FeatureSettings(), source)([range(1)]))).values
    folder = tmp_path_factory.mktemp("clusters")
    Clusters(frames[::16][:12].copy(), {"kind": "mfcc"}, MfccFeatures().framing, {}).save(folder)
    return folder


@pytest.fixture(scope="module")
def store(tiny_corpus, clusters, tmp_path_factory) -> LabelStore:
    """The labels of the tiny corpus."""
    return make_labels(
        open_source(tiny_corpus.data), clusters, tmp_path_factory.mktemp("labels"), HERE
    )


def write_store(folder, utterances, framing=MFCC_FRAMING) -> LabelStore:
    """Write a store of given labels by hand."""
    counts = np.array([len(row) for row in utterances.values()])
    lengths = [framing.window + framing.shift * (n - 1) for n in counts]
    content = b"".join(np.array(row, "<u2").tobytes() for row in utterances.values())
    files = {
        "labels.bin": content,
        "labels.keys": "".join(f"{key}\n" for key in utterances).encode(),
        "labels.index": index_of(
            [key.encode() for key in utterances], counts, np.array(lengths)
        ).tobytes(),
    }
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    record = {
        "num_clusters": 1000,
        "framing": {"window": framing.window, "shift": framing.shift},
        "clusters_digest": "0",
        "bytes": {name: len(data) for name, data in files.items()},
        "sha256": {},
    }
    record["digest"] = digest_of(record)
    (folder / "labels.json").write_text(json.dumps(record))
    return LabelStore.open(folder)


def test_every_utterance_has_the_labels_of_its_frames(tiny_corpus, clusters, store):
    source = open_source(tiny_corpus.data)
    assert len(store) == 32 and list(store) == tiny_corpus.utterances
    assert (store.rate, store.num_clusters) == (100, 12)
    centroids = Clusters.load(clusters)
    total = np.zeros(12, np.int64)
    for framed in Extractor(FeatureSettings(), source)([range(32)]):
        found = store.labels(framed.key)
        wanted = ((framed.values[:, None].astype(float) - centroids.centroids) ** 2).sum(2)
        assert np.array_equal(found, wanted.argmin(1)) and found.dtype == np.uint16
        assert len(found) == store.frames_for(framed.samples) == 1 + (framed.samples - 400) // 160
        total += np.bincount(found, minlength=12)
    quality = json.loads((store.folder / "quality.json").read_text())
    assert quality["counts"] == total.tolist() and store.record["labels"] == total.sum()


def test_shards_and_processes_give_the_same_labels(tiny_corpus, clusters, store, tmp_path):
    make_shards(tiny_corpus.data, tmp_path / "shards", tmp_path / "shard.list")
    again = make_labels(
        open_source(shards=tmp_path / "shard.list"), clusters, tmp_path / "out", Workers("cpu", 2)
    )
    assert sorted(again) == sorted(store)
    for key in store:
        assert np.array_equal(again.labels(key), store.labels(key))


def test_keys_are_found_by_name_even_when_their_hashes_are_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "key_hash", lambda name: len(name))
    rows = {f"{'x' * (n % 3)}k{n}": [n, n + 1] for n in range(40)} | {"é/a b": [7]}
    store = write_store(tmp_path / "store", rows)
    for key, row in rows.items():
        assert store.labels(key).tolist() == row and key in store
    assert "k40" not in store and "zz" not in store
    with pytest.raises(DataError, match="'k40' has no labels"):
        store.labels("k40")


def test_a_large_store_is_searched_rightly(tmp_path):
    rng = np.random.default_rng(0)
    rows = {f"id{n:05d}/v/{n}": rng.integers(0, 999, n % 7) for n in range(5000)}
    store = write_store(tmp_path / "store", rows)
    for key, row in rows.items():
        assert np.array_equal(store.labels(key), row)


def test_labels_at_100_hz_of_frames_at_50(tmp_path):
    store = write_store(tmp_path / "store", {"u": range(100)})
    assert store.crop("u", 0, 400 + 3 * 320).tolist() == [0, 2, 4, 6]
    # 1000 samples are 6.25 labels, 1040 are 6.5, which is rounded to even, 1041 a little more
    assert store.crop("u", 1000, 400 + 2 * 320).tolist() == [6, 8, 10]
    assert store.crop("u", 1040, 400).tolist() == [6]
    assert store.crop("u", 1041, 400).tolist() == [7]
    assert store.crop("u", 0, 399).tolist() == []


def test_labels_at_50_hz_of_frames_at_50(tmp_path):
    store = write_store(tmp_path / "store", {"u": range(40)}, Framing(400, 320))
    assert store.rate == 50
    assert store.crop("u", 0, 400 + 3 * 320).tolist() == [0, 1, 2, 3]
    assert store.crop("u", 5 * 320 + 100, 400 + 320).tolist() == [5, 6]


def test_frames_without_labels_are_left_out(tmp_path):
    store = write_store(tmp_path / "store", {"u": range(9)})
    assert store.crop("u", 0, 400 + 9 * 320).tolist() == [0, 2, 4, 6, 8]
    assert store.crop("u", 160, 400 + 9 * 320).tolist() == [1, 3, 5, 7]
    assert store.crop("u", 9 * 160, 4000).tolist() == []


@pytest.mark.parametrize("start", [0, 1, 79, 80, 81, 159, 160, 5000, 17_777])
@pytest.mark.parametrize("shift", [160, 320])
def test_a_label_lies_where_its_frame_does(tmp_path, start, shift):
    framing = Framing(400, shift)
    store = write_store(tmp_path / "store", {"u": range(framing.count(32_000))}, framing)
    crop = store.crop("u", start, 32_000 - start)
    frames = (32_000 - start - 400) // 320 + 1
    assert frames - 1 <= len(crop) <= frames
    begins = start + 320 * np.arange(len(crop))
    assert np.abs(crop.astype(int) * shift - begins).max() <= shift / 2


def test_the_whole_utterance_has_labels_for_every_frame(store):
    for key in store:
        samples = 400 + 160 * (len(store.labels(key)) - 1)
        assert len(store.crop(key, 0, samples)) == (samples - 400) // 320 + 1


def test_labels_of_other_audio_are_named(tmp_path):
    store = write_store(tmp_path / "store", {"a": range(100), "b": range(50)})
    store.check(["a", "b"], [400 + 99 * 160, 400 + 46 * 160])
    with pytest.raises(DataError) as caught:
        store.check(["a", "b", *"cdefgh"], [400 + 89 * 160, 400 + 49 * 160, *[16000] * 6])
    text = str(caught.value)
    assert "a: 100 labels, but 14640 samples have 90" in text and "b:" not in text
    assert "6 utterances have none: c, d, e, f, g ..." in text and "make_labels" in text


@pytest.mark.parametrize("shift, most", [(160, 3), (320, 1)])
def test_labels_that_may_be_missing_cost_a_crop_two_frames_at_most(tmp_path, shift, most):
    """More would stop a run in the middle: see PretrainNetwork.forward."""
    samples, framing = 16_000, Framing(400, shift)
    missing = {f"u{number}": number for number in range(most + 2)}
    entries = {key: range(framing.count(samples) - number) for key, number in missing.items()}
    store = write_store(tmp_path / "store", entries, framing)
    kept = [key for key, number in missing.items() if number <= most]
    store.check(kept, [samples] * len(kept))
    with pytest.raises(DataError, match=f"u{most + 1}: "):
        store.check(list(entries), [samples] * len(entries))
    short = [
        (length - 400) // 320 + 1 - len(store.crop(key, samples - length - early, length))
        for key in kept
        for length in range(9000, 9321)
        for early in (0, 1, 80)
    ]
    assert max(short) == 2


def test_a_store_opens_again_in_another_process(store):
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 500
    key = next(iter(store))
    assert np.array_equal(again.labels(key), store.labels(key))
    with pytest.raises(ValueError, match="read-only"):
        again.labels(key)[0] = 1


def test_text_for_people(tmp_path):
    store = write_store(tmp_path / "store", {"b": [3, 3, 17], "a": [0]})
    write_text(store, tmp_path / "labels.txt")
    assert (tmp_path / "labels.txt").read_text() == "b 3 3 17\na 0\n"


def test_damaged_stores_are_refused(tmp_path):
    store = write_store(tmp_path / "store", {"a": range(10)})
    with open(store.folder / "labels.bin", "ab") as stream:
        stream.write(b"\0\0")
    with pytest.raises(DataError, match=r"labels\.bin: 20 bytes expected, 22 found"):
        LabelStore.open(store.folder)
    (store.folder / "labels.keys").unlink()
    with pytest.raises(DataError, match=r"labels\.keys: 2 bytes expected, None found"):
        LabelStore.open(store.folder)
    (store.folder / "labels.json").write_text('{"rate": 100}')
    with pytest.raises(DataError, match="not a record of labels"):
        LabelStore.open(store.folder)
    with pytest.raises(DataError, match="run make_labels"):
        LabelStore.open(tmp_path)


def noises(folder, seconds):
    """Write a data directory; return its source."""
    folder.mkdir(exist_ok=True)
    for number, (key, length) in enumerate(seconds.items()):
        wave = np.random.default_rng(number).normal(0, 0.1, round(length * 16000))
        soundfile.write(folder / f"{key}.wav", wave, 16000)
    (folder / "wav.scp").write_text("".join(f"{key} {folder}/{key}.wav\n" for key in seconds))
    (folder / "utt2spk").write_text("".join(f"{key} s\n" for key in seconds))
    return open_source(folder)


def test_a_stopped_run_goes_on_where_it_was(clusters, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "_PART", 2)
    lengths = dict.fromkeys("abcdef", 0.5)
    source = noises(tmp_path / "data", lengths)
    wanted = make_labels(source, clusters, tmp_path / "whole", HERE)
    loaded = []
    load = type(source).load

    def counted(self, row):
        loaded.append(self.keys[row])
        if self.keys[row] == "e" and len(loaded) < 6:
            raise KeyboardInterrupt
        return load(self, row)

    monkeypatch.setattr(type(source), "load", counted)
    with pytest.raises(KeyboardInterrupt):
        make_labels(source, clusters, tmp_path / "out", HERE)
    assert loaded == list("abcde")
    with pytest.raises(DataError, match="no labels or not all of them"):
        LabelStore.open(tmp_path / "out")
    store = make_labels(source, clusters, tmp_path / "out", HERE)
    assert loaded == list("abcdeef")
    assert store.digest == wanted.digest
    make_labels(source, clusters, tmp_path / "out", HERE)
    assert len(loaded) == 7 and not (tmp_path / "out" / "parts").exists()


def test_changed_audio_or_clusters_are_labelled_again(clusters, tmp_path):
    source = noises(tmp_path / "data", {"a": 0.5, "b": 0.5})
    first = make_labels(source, clusters, tmp_path / "out", HERE)
    again = make_labels(
        noises(tmp_path / "data", {"a": 0.5, "b": 0.7}), clusters, first.folder, HERE
    )
    assert len(again.labels("b")) == 1 + (11200 - 400) // 160
    loaded = Clusters.load(clusters)
    fewer = Clusters(loaded.centroids[:5].copy(), loaded.features, loaded.framing, {})
    fewer.save(tmp_path / "fewer")
    other = make_labels(source, tmp_path / "fewer", first.folder, HERE)
    assert other.num_clusters == 5 and len({first.digest, again.digest, other.digest}) == 3


def test_utterances_that_cannot_be_labelled_are_all_named(clusters, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "_PART", 2)
    source = noises(tmp_path / "data", {"a": 0.5, "b": 0.5, "c": 0.02, "d": 0.5, "e": 0.01})
    with pytest.raises(DataError) as caught:
        make_labels(source, clusters, tmp_path / "out", HERE)
    assert "utterances without labels (2 problems)" in str(caught.value)
    assert "c: 320 samples, but a frame takes 400" in str(caught.value)
    assert "e: 160 samples" in str(caught.value)
    assert not (tmp_path / "out" / "labels.json").exists()
    assert (tmp_path / "out" / "parts" / "00000" / "done.json").exists()


def test_mfcc_have_no_encoder(clusters, tiny_corpus, tmp_path):
    with pytest.raises(ConfigError, match="clusters are of MFCC"):
        make_labels(open_source(tiny_corpus.data), clusters, tmp_path, HERE, "encoder")


def test_the_encoder_must_be_the_one_of_the_clusters(tmp_path):
    from helpers import tiny_frontend

    from wesp_lap.frontends.transformer import TransformerFrontend

    torch.manual_seed(0)
    TransformerFrontend(config=tiny_frontend("hubert")).model.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    TransformerFrontend(config=tiny_frontend("hubert")).model.save_pretrained(tmp_path / "c")
    settings = FeatureSettings("layer", str(tmp_path / "a"), 2)
    source = noises(tmp_path / "data", {"u": 0.5})
    frames = next(iter(Extractor(settings, source)([range(1)]))).values
    record = {"model": settings.model}
    Clusters(frames[:5], settings.identity(), Framing(400, 320), record).save(tmp_path / "cl")
    store = make_labels(source, tmp_path / "cl", tmp_path / "out", HERE)
    assert store.rate == 50 and store.labels("u")[:5].tolist() == [0, 1, 2, 3, 4]
    shutil.rmtree(tmp_path / "a")
    moved = make_labels(source, tmp_path / "cl", tmp_path / "new", HERE, str(tmp_path / "b"))
    assert moved.digest == store.digest
    with pytest.raises(DataError, match="not the encoder that"):
        make_labels(source, tmp_path / "cl", tmp_path / "new", HERE, str(tmp_path / "c"))
    with pytest.raises(ConfigError, match="not the directory of an encoder"):
        make_labels(source, tmp_path / "cl", tmp_path / "new", HERE)
