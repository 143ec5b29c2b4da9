"""Files made and decoded by a real ffmpeg: whole, damaged, and many at a time."""

import io

import numpy as np
import pytest
import soundfile
from coded import ffmpeg_or_skip, tone, write_coded, write_wrapper

from wesp_lap.audio import ffmpeg
from wesp_lap.audio.ffmpeg import decode_files, decode_to_wav, read_properties
from wesp_lap.audio.io import decode, probe
from wesp_lap.errors import DataError

WAVE = tone(0, 1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    ffmpeg_or_skip()
    return tmp_path_factory.mktemp("coded")


@pytest.fixture(scope="module")
def m4a(folder):
    return write_coded(folder / "a.m4a", WAVE)


@pytest.fixture(scope="module")
def early(folder):
    """An m4a whose table stands at its begin, so that a part of it can be decoded."""
    return write_coded(folder / "early.m4a", WAVE, words="-movflags faststart")


def test_the_samples_are_those_that_were_encoded(m4a):
    wave, rate = decode(m4a)
    assert rate == 16000 and 0 <= len(wave) - len(WAVE) <= 1024
    error = wave[: len(WAVE)] - WAVE
    assert np.square(error).mean() < 0.02 * np.square(WAVE).mean()


def test_the_header_of_the_wav_says_how_long_it_is(m4a):
    content = decode_to_wav(m4a)
    wave, _ = soundfile.read(io.BytesIO(content), dtype="int16")
    assert content.endswith(wave.tobytes())
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    start = len(content) - 2 * len(wave)
    assert int.from_bytes(content[start - 4 : start], "little") == 2 * len(wave)


@pytest.mark.parametrize("name", ["x.m4a", "x.aac", "x.mp4", "x.wma", "x.webm", "x.3gp"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2)])
def test_the_form_of_a_file(tmp_path, name, rate, channels):
    wave = np.repeat(tone(1, 1.2, rate)[:, None], channels, axis=1)
    path = write_coded(tmp_path / name, wave, rate, "-c:a aac" if name == "x.3gp" else "")
    found_rate, found_channels, seconds = read_properties(path)
    expected = 48000 if name == "x.webm" else rate  # Opus knows no other
    assert (found_rate, found_channels) == (expected, channels)
    assert seconds == pytest.approx(1.2, abs=0.15)
    assert probe(path).seconds == pytest.approx(seconds, abs=1e-3)


def test_a_file_whose_header_gives_no_length_is_decoded_for_it(tmp_path):
    path = write_coded(tmp_path / "x.aac", np.concatenate([WAVE, 0 * WAVE]))
    assert probe(path).samples == len(decode(path)[0])


def test_of_a_video_the_first_audio_is_taken(tmp_path, m4a):
    path = tmp_path / "x.mp4"
    words = f"-f lavfi -i testsrc=d=1:s=64x64 -i {m4a} -map 1:v -map 2:a -map 0:a"
    write_coded(path, WAVE[:8000], words=f"{words} -c:a copy -c:a:1 aac")
    wave, _ = decode(path)
    np.testing.assert_array_equal(wave, decode(m4a)[0])
    assert read_properties(path)[:2] == (16000, 1)
    write_coded(path, WAVE, words="-f lavfi -i testsrc=d=1:s=64x64 -map 1:v")
    with pytest.raises(DataError, match=r"x\.mp4: cannot be read as audio: ffmpeg: .*no streams"):
        decode(path)


def test_more_than_one_channel_is_refused(tmp_path):
    path = write_coded(tmp_path / "x.m4a", np.stack([WAVE, WAVE], axis=1), 44100)
    with pytest.raises(DataError, match=r"x\.m4a: 2 channels; mono is expected"):
        decode(path)


def damaged(early, path, fault):
    content = bytearray(early.read_bytes())
    if fault == "cut":
        del content[len(content) // 2 :]
    elif fault == "cut in its table":
        del content[300:]
    elif fault == "flipped":
        for place in range(len(content) // 2, len(content) // 2 + 200):
            content[place] ^= 0x5A
    elif fault == "text":
        content = bytearray(b"not audio\n" * 100)
    else:
        content = bytearray(len(content))
    path.write_bytes(content)
    return path


FAULTS = ["cut", "cut in its table", "flipped", "text", "zeros"]


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_an_error_that_names_the_file(early, tmp_path, fault):
    path = damaged(early, tmp_path / "bad.m4a", fault)
    with pytest.raises(DataError) as caught:
        decode(path)
    kind = "damaged or cut short" if fault in ("cut", "flipped") else "cannot be read as audio"
    assert str(caught.value).startswith(f"{path}: {kind}: ffmpeg: ")
    assert "@ 0x" not in str(caught.value) and "\n" not in str(caught.value)


def texts(results):
    return [str(one) if isinstance(one, DataError) else one for one in results]


@pytest.mark.parametrize("files", [1, 2, 3, 16])
@pytest.mark.parametrize("fault", [None, *FAULTS, "gone"])
def test_many_at_a_time_are_as_one_by_one(early, m4a, tmp_path, monkeypatch, files, fault):
    monkeypatch.setattr(ffmpeg, "_BATCH_FILES", files)
    paths = [early, m4a, early, m4a, m4a]
    if fault:
        paths[2] = tmp_path / "bad.m4a"
        if fault != "gone":
            damaged(early, paths[2], fault)
    results = list(decode_files(paths))
    assert texts(results) == texts(ffmpeg._decode_or_error(path) for path in paths)
    bad = [place for place, one in enumerate(results) if isinstance(one, DataError)]
    assert bad == ([2] if fault else [])


def test_one_process_decodes_many_small_files(m4a, tmp_path, monkeypatch):
    program = write_wrapper(tmp_path / "wrapper", always=f"echo ran >> {tmp_path}/runs")
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(program))
    expected = decode_to_wav(m4a)
    (tmp_path / "runs").unlink()
    assert list(decode_files([m4a] * 17)) == [expected] * 17
    assert (tmp_path / "runs").read_text().split() == ["ran"] * 2
    monkeypatch.setattr(ffmpeg, "_BATCH_BYTES", 1)
    (tmp_path / "runs").unlink()
    assert list(decode_files([m4a] * 3)) == [expected] * 3
    assert (tmp_path / "runs").read_text().split() == ["ran"] * 3


def test_decoding_goes_no_further_ahead_than_one_process(m4a, tmp_path, monkeypatch):
    program = write_wrapper(tmp_path / "wrapper", always=f"echo ran >> {tmp_path}/runs")
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(program))
    next(decode_files([m4a] * 40))
    assert (tmp_path / "runs").read_text().split() == ["ran"]


@pytest.mark.parametrize("trouble", ["kill -9 $$", "exec sleep 100", "echo hm >&2", "exit 3"])
def test_trouble_with_many_leaves_each_of_them_readable(m4a, tmp_path, monkeypatch, trouble):
    monkeypatch.setattr(ffmpeg, "_BATCH_SECONDS", 0.2)
    expected = decode_to_wav(m4a)
    program = write_wrapper(tmp_path / "wrapper", several=trouble)
    monkeypatch.setenv("WESP_LAP_FFMPEG", str(program))
    assert list(decode_files([m4a] * 3)) == [expected] * 3


def test_a_full_disk_for_temporary_files_costs_only_time(m4a, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    expected = decode_to_wav(m4a)
    monkeypatch.setattr(ffmpeg.tempfile, "TemporaryFile", full)
    assert list(decode_files([m4a] * 3)) == [expected] * 3
