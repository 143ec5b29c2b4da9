import hashlib
import json
import os

import pytest

from wesp_lap import files
from wesp_lap.errors import DataError
from wesp_lap.files import Stamp, atomic_write, read_json, sha256, write_json


def test_a_failing_write_leaves_the_old_file_and_no_remains(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as stream:
        stream.write("new")
        stream.flush()
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_a_failing_write_makes_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "x", "wb") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_reader_meets_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a" / "x.txt"
    with atomic_write(target) as stream:
        stream.write("é\n")
        stream.flush()
        assert not target.exists()
    assert target.read_bytes() == "é\n".encode()
    with atomic_write(target, "wb") as binary:
        binary.write(b"\0\1")
        binary.flush()
        assert target.read_bytes() == "é\n".encode()
    assert target.read_bytes() == b"\0\1" and os.listdir(target.parent) == ["x.txt"]


def test_who_has_the_old_file_open_reads_on_in_it(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old and long")
    with open(target, "rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        with atomic_write(target) as stream:
            stream.write("new")
        assert reader.read() == b" and long"
    assert target.read_text() == "new"


def test_json_comes_back_and_stays_readable(tmp_path):
    value = {"a": [1, 2.5, None], "name": "Zoë"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "Zoë" in text and text.endswith("}\n")


def test_missing_and_broken_json_are_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"x\.json: not valid JSON: .*line 1"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("size", [0, 10, (1 << 20) + 1])
def test_digest_of_a_file(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


@pytest.fixture
def work(tmp_path):
    """Inputs, outputs and the stamp of a finished piece of work."""
    (tmp_path / "in.txt").write_text("input")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.bin").write_bytes(b"12345")

    def stamp(**settings):
        inputs = [tmp_path / "in.txt", tmp_path / "optional.txt"]
        return Stamp(
            tmp_path / "out" / "done.json", {"seed": 1, "shape": (1, 2), **settings}, inputs
        )

    assert not stamp().is_fresh()
    stamp().write([tmp_path / "out" / "result.bin"])
    return tmp_path, stamp


def test_finished_work_is_fresh(work):
    assert work[1]().is_fresh()


def test_a_touched_input_with_equal_content_stays_fresh(work):
    os.utime(work[0] / "in.txt", (0, 0))
    assert work[1]().is_fresh()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "in.txt").write_text("Input"),
        lambda folder: (folder / "in.txt").unlink(),
        lambda folder: (folder / "optional.txt").write_text("now here"),
        lambda folder: (folder / "out" / "result.bin").unlink(),
        lambda folder: (folder / "out" / "result.bin").write_bytes(b"123"),
        lambda folder: (folder / "out" / "done.json").unlink(),
    ],
    ids=["input changed", "input gone", "input new", "output gone", "output cut", "no stamp"],
)
def test_any_change_of_files_ends_freshness(work, change):
    folder, stamp = work
    change(folder)
    assert not stamp().is_fresh()


def test_other_settings_are_other_work(work):
    assert not work[1](seed=2).is_fresh()
    assert not work[1](extra=None).is_fresh()


def test_finished_work_can_be_moved_with_its_outputs(work):
    folder, _ = work
    os.rename(folder / "out", folder / "moved")
    inputs = [folder / "in.txt", folder / "optional.txt"]
    stamp = Stamp(folder / "moved" / "done.json", {"seed": 1, "shape": (1, 2)}, inputs)
    assert stamp.is_fresh()


def test_media_are_told_by_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("hashed"))
    media = [tmp_path / "a.wav", tmp_path / "b.wav"]
    media[0].write_bytes(b"one")
    Stamp(tmp_path / "done.json", {}, media=media).write([])
    assert Stamp(tmp_path / "done.json", {}, media=media).is_fresh()
    os.utime(media[0], (0, 0))
    assert not Stamp(tmp_path / "done.json", {}, media=media).is_fresh()
    Stamp(tmp_path / "done.json", {}, media=media).write([])
    media[1].write_bytes(b"now here")
    assert not Stamp(tmp_path / "done.json", {}, media=media).is_fresh()


def test_inputs_that_change_during_the_work_leave_it_undone(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("one")
    stamp = Stamp(tmp_path / "done.json", {}, [source])
    assert not stamp.is_fresh()
    source.write_text("two")  # while the work is under way on the old content
    stamp.write([])
    assert not Stamp(tmp_path / "done.json", {}, [source]).is_fresh()


def test_a_stamp_is_plain_json(work):
    record = json.loads((work[0] / "out" / "done.json").read_text())
    assert record["settings"] == {"seed": 1, "shape": [1, 2]}
    assert record["outputs"] == {"result.bin": 5}
