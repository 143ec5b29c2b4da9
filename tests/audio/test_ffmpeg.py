"""Formats that only ffmpeg reads, with scripts in the place of ffmpeg and ffprobe."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from wesp_lap.audio.ffmpeg import needs_ffmpeg
from wesp_lap.audio.io import AudioInfo, decode, encode, probe
from wesp_lap.errors import DataError

RATE = 16000
WAVE = (np.random.default_rng(0).integers(-3000, 3000, 8000) / 32768).astype(np.float32)


def fake(program, folder, monkeypatch, script):
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("name", "foreign"), [("a.wav", False), ("b/c.FLAC", False), ("a.m4a", True), ("a.M4A", True)]
)
def test_suffixes_that_need_ffmpeg(name, foreign):
    assert needs_ffmpeg(Path(name)) is foreign


@pytest.mark.parametrize(("read", "program"), [(decode, "ffmpeg"), (probe, "ffprobe")])
def test_without_ffmpeg_one_sentence_says_what_to_install(tmp_path, monkeypatch, read, program):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "x.m4a").write_bytes(b"...")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.m4a")
    assert str(caught.value) == (
        f"{tmp_path}/x.m4a: '.m4a' files need {program}, which is not on PATH; install ffmpeg or "
        "convert the corpus to FLAC or WAV"
    )


def test_ffmpeg_decodes_the_file_and_may_read_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "decoded.wav").write_bytes(encode(WAVE, RATE, "wav"))
    script = f'echo "$@" > {tmp_path}/words; cat {tmp_path}/decoded.wav'
    fake("ffmpeg", tmp_path, monkeypatch, script)
    path = tmp_path / "-i evil.m4a"
    path.write_bytes(b"...")
    for source in (path, str(path)):
        wave, rate = decode(source, 100, 200)
        assert rate == RATE
        np.testing.assert_array_equal(wave, WAVE[100:200])
    words = (tmp_path / "words").read_text()
    assert f"-protocol_whitelist file,pipe -i file:{path}" in words and "-nostdin" in words


def test_ffprobe_tells_the_form_of_the_file(tmp_path, monkeypatch):
    lines = "sample_rate=44100 channels=2 duration=1.5"
    fake("ffprobe", tmp_path, monkeypatch, f"printf '%s\\n' {lines}")
    assert probe(tmp_path / "x.m4a") == AudioInfo(44100, 66150, 2)
    fake("ffprobe", tmp_path, monkeypatch, "echo duration=N/A")
    with pytest.raises(DataError, match=r"x\.m4a: cannot be read as audio: ffprobe does not say"):
        probe(tmp_path / "x.m4a")


def test_a_failure_of_ffmpeg_is_told_in_its_words(tmp_path, monkeypatch):
    script = "echo first >&2; echo 'moov atom not found' >&2; exit 1"
    fake("ffmpeg", tmp_path, monkeypatch, script)
    with pytest.raises(
        DataError, match=r"x\.m4a: cannot be read as audio: ffmpeg: moov atom not f"
    ):
        decode(tmp_path / "x.m4a")


def test_what_ffmpeg_leaves_empty_is_named(tmp_path, monkeypatch):
    fake("ffmpeg", tmp_path, monkeypatch, "exit 0")
    with pytest.raises(DataError, match=r"x\.m4a: cannot be read as audio"):
        decode(tmp_path / "x.m4a")


def test_an_endless_ffmpeg_is_given_up(tmp_path, monkeypatch):
    fake("ffmpeg", tmp_path, monkeypatch, "")

    def run(*_args, timeout, **_options):
        raise subprocess.TimeoutExpired("ffmpeg", timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match=r"x\.m4a: ffmpeg did not finish in \d+ s"):
        decode(tmp_path / "x.m4a")
