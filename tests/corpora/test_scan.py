"""Audio files of a corpus: found once, in order, with every fault named."""

import os
import subprocess
import sys

import pytest

from wesp_lap.corpora.scan import audio_files, scan_audio, write_data_dir
from wesp_lap.errors import DataError
from wesp_lap.kaldi.datadir import DataDir


def put(folder, *names, content=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def relative(folder, files):
    return [os.path.relpath(file.path, folder) for file in files]


def test_files_are_sorted_with_their_sizes_whatever_the_case_of_the_suffix(tmp_path):
    put(tmp_path, "b/v/2.WAV", "b/v/1.flac", "a/v/1.m4a", content=b"four")
    put(tmp_path, "a/v/1.txt", "a/v/wav", "list.wav.txt")
    files = scan_audio(tmp_path)
    assert relative(tmp_path, files) == ["a/v/1.m4a", "b/v/1.flac", "b/v/2.WAV"]
    assert {file.size for file in files} == {4}
    assert [str(path) for path in audio_files(tmp_path)] == [file.path for file in files]


def test_hidden_files_and_what_macos_leaves_are_no_audio(tmp_path):
    put(tmp_path, "a/1.wav", "a/._1.wav", "a/.2.wav", ".trash/3.wav", "__MACOSX/a/1.wav")
    put(tmp_path, "a/._0.wav", content=b"")
    assert relative(tmp_path, scan_audio(tmp_path)) == ["a/1.wav"]


def test_depth_counts_the_names_below_the_folder(tmp_path):
    put(tmp_path, "1.wav", "a/2.wav", "a/b/3.wav")
    assert relative(tmp_path, scan_audio(tmp_path, depth=2)) == ["1.wav", "a/2.wav"]


def test_a_circle_of_links_ends(tmp_path):
    put(tmp_path, "a/1.wav")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert relative(tmp_path, scan_audio(tmp_path))[0] == "a/1.wav"


def test_a_folder_below_another_one_is_listed_once(tmp_path):
    put(tmp_path, "a/1.wav", "b/2.wav")
    assert len(scan_audio([tmp_path, tmp_path / "a"])) == 2


def test_empty_files_links_to_nothing_and_missing_folders_are_named_together(tmp_path):
    put(tmp_path, "a/1.wav")
    put(tmp_path, "a/2.wav", "b/3.wav", content=b"")
    (tmp_path / "b" / "4.wav").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError) as caught:
        scan_audio(tmp_path)
    for text in ("3 problems", "a/2.wav: empty file", "b/3.wav: empty file", "b/4.wav: cannot"):
        assert text in str(caught.value)
    with pytest.raises(DataError, match=r"(?s)nowhere: no such folder.*elsewhere: no such folder"):
        scan_audio([tmp_path, tmp_path / "nowhere", tmp_path / "elsewhere"])


def test_a_data_directory_is_written_whole_and_replaces_an_earlier_one(tmp_path):
    put(tmp_path, "x/1.wav", "x/2.wav")
    out = tmp_path / "data"
    wav = {"s/1": str(tmp_path / "x/1.wav"), "s/2": str(tmp_path / "x/2.wav")}
    write_data_dir(out, wav, dict.fromkeys(wav, "s"), dict.fromkeys(wav, 2.0))
    assert DataDir.load(out).utt2dur == {"s/1": 2.0, "s/2": 2.0}
    write_data_dir(out, {"s/1": wav["s/1"]}, {"s/1": "s"})
    data = DataDir.load(out)
    assert data.utterances == ["s/1"] and not (out / "utt2dur").exists()
    assert (out / "spk2utt").read_text() == "s s/1\n"
    assert data.resolve("s/1") == tmp_path / "x/1.wav"


def test_relative_paths_are_written_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_data_dir("d", {"a": "1.wav"}, {"a": "s"}).wav == {"a": str(tmp_path / "1.wav")}


def test_tables_that_do_not_agree_leave_nothing(tmp_path):
    with pytest.raises(DataError, match="1 keys are not in both tables: b"):
        write_data_dir(tmp_path / "d", {"a": "1", "b": "2"}, {"a": "s"})
    with pytest.raises(DataError, match="nothing to write"):
        write_data_dir(tmp_path / "d", {}, {})
    assert not (tmp_path / "d").exists()


def test_a_data_directory_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "wav.scp").write_text("theirs /a.wav\n")
    with pytest.raises(DataError, match="not made from a corpus here; give another folder"):
        write_data_dir(tmp_path, {"a": "1"}, {"a": "s"})
    assert (tmp_path / "wav.scp").read_text() == "theirs /a.wav\n"


DYING = """
import os, sys
left, real = int(sys.argv[1]), os.replace
def replace(*names):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    real(*names)
os.replace = replace
from wesp_lap.corpora.scan import write_data_dir
wav = {"t/1": "/new/1.wav", "t/2": "/new/2.wav"}
write_data_dir(sys.argv[2], wav, dict.fromkeys(wav, "t"))
"""


@pytest.mark.parametrize("steps", range(4))
def test_a_killed_run_leaves_a_whole_directory_or_none(tmp_path, steps):
    out = tmp_path / "d"
    write_data_dir(out, {"s/1": "/old/1.wav"}, {"s/1": "s"}, {"s/1": 1.0})
    words = [sys.executable, "-c", DYING, str(steps), str(out)]
    assert subprocess.run(words, check=False).returncode == 9
    if (out / "wav.scp").exists():
        assert DataDir.load(out).utterances == ["s/1"] and steps == 0
    wav = {"t/1": "/new/1.wav", "t/2": "/new/2.wav"}
    write_data_dir(out, wav, dict.fromkeys(wav, "t"))
    assert DataDir.load(out).utterances == ["t/1", "t/2"]
