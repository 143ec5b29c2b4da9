"""Short utterances joined to longer ones: which, and the files."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wesp_lap.audio.io import probe
from wesp_lap.corpora import combine
from wesp_lap.corpora.combine import Joint, choose_joints, joint_name, write_joints
from wesp_lap.errors import DataError


@pytest.mark.parametrize(
    "seconds, wanted",
    [
        ([6, 7, 8], ["a", "b", "c"]),
        ([2, 2, 2], ["abc"]),
        ([2, 3, 2, 3], ["ab", "cd"]),
        ([2, 6, 3], ["ac", "b"]),  # short ones meet across a long one
        ([2, 3, 1], ["abc"]),  # what is left joins the last that was gathered
        ([2, 3, 9, 1], ["abd", "c"]),
        ([9, 8, 1], ["a", "bc"]),  # or the last long one
        ([1, 9, 8], ["b", "ac"]),
        ([5], ["a"]),
        ([1], ["a"]),
        ([], []),
    ],
)
def test_worked_examples(seconds, wanted):
    lengths = dict(zip("abcdefgh", seconds, strict=False))
    found = choose_joints(lengths, 5)
    assert sorted("".join(keys) for keys in found) == sorted(wanted)


def test_every_utterance_stands_once_and_nothing_is_short_that_need_not_be():
    rng = np.random.default_rng(1)
    for _ in range(500):
        values = rng.choice([0.3, 1, 2.5, 4.9, 5, 12], rng.integers(1, 12))
        lengths = {f"u{number:02d}": value for number, value in enumerate(values)}
        found = choose_joints(lengths, 5)
        assert sorted(key for keys in found for key in keys) == list(lengths)
        assert all(keys == sorted(keys) for keys in found)
        totals = [sum(lengths[key] for key in keys) for keys in found]
        assert min(totals) >= 5 or len(found) == 1
        # A long one is rewritten only where the short ones are too short together.
        long_in_joint = [k for keys in found for k in keys if len(keys) > 1 and lengths[k] >= 5]
        if values[values < 5].sum() >= 5:
            assert not long_in_joint
        assert len(long_in_joint) <= 1
        assert [keys[0] for keys in found] == sorted(keys[0] for keys in found)


def test_zero_seconds_joins_nothing():
    assert choose_joints({"a": 0.1, "b": 0.2}, 0) == [["a"], ["b"]]


def test_names_tell_how_many_were_joined():
    assert joint_name(["id1/vlog-01-001.wav", "id1/vlog-01-002.wav"]) == "id1/vlog-01-001-comb2.wav"
    assert joint_name(["id1/vlog-01-001.wav"]) == "id1/vlog-01-001.wav"


@pytest.fixture
def sources(tmp_path):
    """Five files of whole-range noise, of different lengths."""
    paths = []
    for number in range(5):
        rng = np.random.default_rng(number)
        wave = rng.integers(-32768, 32768, 1000 + 10 * number).astype(np.int16)
        paths.append(str(tmp_path / "in" / f"{number}.flac"))
        Path(paths[-1]).parent.mkdir(exist_ok=True)
        soundfile.write(paths[-1], wave, 16000, "PCM_16")
    return paths


def joint(tmp_path, name, sources):
    samples = sum(probe(path).samples for path in sources)
    return Joint(str(tmp_path / "out" / "id1" / f"{name}.flac"), tuple(sources), samples)


def write(tmp_path, joints, jobs=1):
    infos = {path: probe(path) for one in joints for path in one.sources}
    return write_joints(joints, infos, tmp_path, jobs)


def read(path):
    return soundfile.read(path, dtype="int16")[0]


def test_samples_are_joined_as_they_are_in_one_process_or_two(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(combine, "_CHUNK", 1)
    joints = [joint(tmp_path, "a", sources[:3]), joint(tmp_path, "b", sources[3:])]
    assert write(tmp_path, joints, jobs=2) == {}
    for one in joints:
        np.testing.assert_array_equal(
            read(one.target), np.concatenate([read(path) for path in one.sources])
        )
    content = [Path(one.target).read_bytes() for one in joints]
    for one in joints:
        Path(one.target).unlink()
    write(tmp_path, joints, jobs=1)
    assert [Path(one.target).read_bytes() for one in joints] == content


def test_whole_files_are_kept_and_others_written_again(tmp_path, sources):
    names = ("kept", "cut", "stale", "other")
    joints = [joint(tmp_path, name, sources[:2]) for name in names]
    write(tmp_path, joints)
    whole = Path(joints[0].target).read_bytes()
    Path(joints[1].target).write_bytes(whole[:20])
    os.utime(joints[2].target, (1, 1))  # its sources are newer
    equally_long = [str(tmp_path / "in" / name) for name in ("x.flac", "y.flac")]
    for path, like in zip(equally_long, sources, strict=False):
        soundfile.write(path, np.zeros_like(read(like)), 16000, "PCM_16")
        os.utime(path, (1, 1))
    joints[3] = joint(tmp_path, "other", equally_long)
    before = {one.target: os.stat(one.target).st_ino for one in joints}
    assert write(tmp_path, joints) == {}
    kept = [os.stat(one.target).st_ino == before[one.target] for one in joints]
    assert kept == [True, False, False, False]
    assert Path(joints[1].target).read_bytes() == whole
    assert not read(joints[3].target).any()


def test_bad_sources_are_all_named_and_the_rest_is_written(tmp_path, sources):
    infos = {path: probe(path) for path in sources}
    joints = [joint(tmp_path, "a", sources[:2]), joint(tmp_path, "b", sources[2:4])]
    joints.append(joint(tmp_path, "c", [sources[4], sources[4]]))
    Path(sources[1]).write_bytes(Path(sources[1]).read_bytes()[:1200])
    soundfile.write(sources[3], np.zeros((100, 2)), 16000)
    faults = write_joints(joints, infos, tmp_path, 1)
    assert set(faults) == {sources[1], sources[3]}
    assert sources[1] in faults[sources[1]]
    assert "2 channels" in faults[sources[3]]
    assert [Path(one.target).exists() for one in joints] == [False, False, True]
    assert not list(tmp_path.glob("out/id1/.*"))


def test_sampling_rates_do_not_mix(tmp_path, sources):
    soundfile.write(sources[1], np.zeros(100), 8000)
    faults = write(tmp_path, [joint(tmp_path, "a", sources[:2])])
    assert "[8000, 16000]" in faults[sources[0]]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, sources, monkeypatch):
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([real.f_bsize, real.f_frsize, real.f_blocks, 0, 0, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(DataError, match=r"joined utterances: needs 0\.0 GB in .*0\.0 GB are free"):
        write(tmp_path, [joint(tmp_path, "a", sources[:2])])
    assert not list(tmp_path.rglob("out/*/*"))
