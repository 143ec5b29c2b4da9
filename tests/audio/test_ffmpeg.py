"""How ffmpeg is found, what it is told, and what is said of its failures."""

import sys
from pathlib import Path

import numpy as np
import pytest
from coded import write_program

from wesp_lap.audio import ffmpeg
from wesp_lap.audio.ffmpeg import decode_files, find_ffmpeg, needs_ffmpeg
from wesp_lap.audio.io import decode, encode, probe
from wesp_lap.errors import ConfigError, DataError

RATE = 16000
WAVE = (np.random.default_rng(0).integers(-3000, 3000, 8000) / 32768).astype(np.float32)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a script in the place of ffmpeg."""

    def put(script):
        program = write_program(tmp_path / "fake", script)
        monkeypatch.setenv("WESP_LAP_FFMPEG", str(program))

    return put


@pytest.fixture
def coded(tmp_path):
    path = tmp_path / "x.m4a"
    path.write_bytes(b"...")
    return path


@pytest.mark.parametrize(
    ("name", "foreign"), [("a.wav", False), ("b/c.FLAC", False), ("a.m4a", True), ("a.M4A", True)]
)
def test_suffixes_that_need_ffmpeg(name, foreign):
    assert needs_ffmpeg(Path(name)) is foreign


def test_the_named_ffmpeg_comes_before_that_on_path_and_that_in_the_package(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    named = write_program(tmp_path / "named", "exit 0")
    on_path = write_program(tmp_path / "bin" / "ffmpeg", "exit 0")
    monkeypatch.setattr(ffmpeg, "_packaged_ffmpeg", lambda: "packaged")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(named))
    assert find_ffmpeg() == str(named)
    monkeypatch.setenv("WESP_LAP_FFMPEG", "")
    assert find_ffmpeg() == str(on_path)
    monkeypatch.setenv("PATH", "")
    assert find_ffmpeg() == "packaged"
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"WESP_LAP_FFMPEG names '.*gone', which is no program"):
        find_ffmpeg()


def test_a_package_without_its_program_is_no_ffmpeg(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    ffmpeg._packaged_ffmpeg.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("WESP_LAP_FFMPEG", raising=False)
    try:
        assert find_ffmpeg() is None
    finally:
        ffmpeg._packaged_ffmpeg.cache_clear()


@pytest.mark.parametrize("read", [decode, probe])
def test_without_ffmpeg_one_sentence_says_what_to_install(coded, monkeypatch, read):
    monkeypatch.setattr(ffmpeg, "find_ffmpeg", lambda: None)
    with pytest.raises(DataError) as caught:
        read(coded)
    assert str(caught.value) == (
        f"{coded}: '.m4a' files need ffmpeg, which was not found; install ffmpeg (pip install "
        "imageio-ffmpeg will do), name the program in the environment variable WESP_LAP_FFMPEG, "
        "or convert the corpus to FLAC or WAV"
    )
    assert [str(fault) for fault in decode_files([coded, coded])] == [str(caught.value)] * 2


def test_ffmpeg_decodes_the_file_and_may_read_nothing_else(tmp_path, fake):
    (tmp_path / "decoded.wav").write_bytes(encode(WAVE, RATE, "wav"))
    fake(f'echo "$@" > {tmp_path}/words; cat {tmp_path}/decoded.wav')
    path = tmp_path / "-i evil.m4a"
    path.write_bytes(b"...")
    for source in (path, str(path)):
        wave, rate = decode(source, 100, 200)
        assert rate == RATE
        np.testing.assert_array_equal(wave, WAVE[100:200])
    words = (tmp_path / "words").read_text()
    assert f"-protocol_whitelist file,pipe -threads 1 -i file:{path}" in words
    assert "-nostdin" in words


def test_a_failure_of_ffmpeg_is_told_in_its_first_words(coded, fake):
    fake("echo '[mov,mp4 @ 0x12ab] [x @ 0x3] moov atom not found' >&2; echo more >&2; exit 1")
    with pytest.raises(DataError) as caught:
        decode(coded)
    assert str(caught.value) == f"{coded}: cannot be read as audio: ffmpeg: moov atom not found"


def test_what_ffmpeg_leaves_empty_is_named(coded, fake):
    fake("exit 0")
    for read in (decode, probe):
        with pytest.raises(DataError, match=r"x\.m4a: cannot be read as audio"):
            read(coded)


def test_an_endless_ffmpeg_is_given_up(coded, fake, monkeypatch):
    fake("exec sleep 100")
    monkeypatch.setattr(ffmpeg, "_SECONDS", 0.1)
    monkeypatch.setattr(ffmpeg, "_BATCH_SECONDS", 0.1)
    for fault in decode_files([coded, coded]):
        assert str(fault) == f"{coded}: ffmpeg did not finish in 0.1 s"


def test_a_killed_ffmpeg_is_named(coded, fake):
    fake("kill -9 $$")
    with pytest.raises(DataError, match=r"x\.m4a: ffmpeg was killed by signal 9"):
        decode(coded)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_the_memory_of_ffmpeg_is_limited(coded, fake):
    limit = "case $(ulimit -d) in 4194304) echo limited >&2; exit 1 ;; esac"
    fake(f"for i in 1 2 3 4 5 6 7 8 9; do {limit}; sleep 0.1; done")
    with pytest.raises(DataError, match="ffmpeg: limited"):
        decode(coded)


@pytest.mark.parametrize("read", [decode, probe])
def test_missing_and_empty_files_are_named(tmp_path, fake, read):
    fake("echo ran >&2; exit 1")
    with pytest.raises(DataError, match=r"gone\.m4a: cannot be read: .*No such file"):
        read(tmp_path / "gone.m4a")
    (tmp_path / "empty.m4a").touch()
    with pytest.raises(DataError, match=r"empty\.m4a: cannot be read as audio: the file is empty"):
        read(tmp_path / "empty.m4a")


def test_a_program_that_cannot_run_is_named(tmp_path, coded, monkeypatch):
    program = write_program(tmp_path / "fake", "")
    program.write_bytes(b"\0\0\0\0")
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(program))
    with pytest.raises(DataError, match=r"x\.m4a: cannot be read: .*fake: Exec format error"):
        decode(coded)
