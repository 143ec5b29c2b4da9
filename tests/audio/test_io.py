import struct

import numpy as np
import pytest
import soundfile

from wesp_lap.audio.io import AudioInfo, decode, encode, probe
from wesp_lap.errors import DataError

RATE = 16000
WAVE = (np.random.default_rng(0).standard_normal(2 * RATE) * 0.1).astype(np.float32)


@pytest.fixture(params=["wav", "flac"])
def path(request, tmp_path):
    path = tmp_path / f"speech.{request.param}"
    soundfile.write(path, WAVE, RATE, subtype="PCM_16")
    return path


def test_a_whole_file_is_what_soundfile_reads(path):
    wave, rate = decode(path)
    expected, _ = soundfile.read(path, dtype="float32")
    assert rate == RATE and wave.dtype == np.float32
    np.testing.assert_array_equal(wave, expected)
    np.testing.assert_allclose(wave, WAVE, atol=1 / 32768)
    assert probe(path) == AudioInfo(RATE, 2 * RATE, 1) and probe(path).seconds == 2


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 2 * RATE), (1, 2), (4095, 4097), (5000, 21000), (31999, 32000), (30000, 99999)],
)
def test_a_part_is_the_slice_of_the_whole_from_files_and_bytes(path, start, stop):
    whole, _ = decode(path)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(decode(source, start, stop)[0], whole[start:stop])


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_encoded_bytes_decode_to_16_bit_values(suffix):
    content = encode(np.array([0.5, -0.25, 1.5, -1.5, 0], np.float32), 8000, suffix)
    wave, rate = decode(content)
    assert rate == 8000 and probe(content).samples == 5
    np.testing.assert_allclose(wave, [0.5, -0.25, 32767 / 32768, -1, 0], atol=0.6 / 32768)


def test_several_channels_are_refused_with_the_mend(tmp_path):
    path = tmp_path / "two.flac"
    soundfile.write(path, np.stack([WAVE, WAVE], 1), RATE)
    with pytest.raises(DataError, match=r"two\.flac: 2 channels; mono .*'ffmpeg -i IN -ac 1 OUT"):
        decode(path)


@pytest.mark.parametrize("lost", [1, 100, 10000, 50000])
def test_a_file_that_is_cut_short_is_named(path, lost):
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    with pytest.raises(DataError, match=rf"{path.name}: "):
        decode(path)
    with pytest.raises(DataError, match="utt7: "):
        decode(path.read_bytes(), name="utt7")


def test_a_cut_wav_says_how_much_is_missing(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, WAVE, RATE)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"1000 bytes are missing .* Replace it or take it out"):
        decode(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_came_through_a_pipe_has_no_length_to_keep(tmp_path, size):
    content = bytearray(encode(WAVE, RATE, "wav"))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", size)
    np.testing.assert_allclose(decode(bytes(content))[0], WAVE, atol=1 / 32768)


def test_chunks_around_the_samples_are_passed_over(tmp_path):
    content = encode(WAVE, RATE, "wav")
    note = b"LIST" + struct.pack("<I", 5) + b"odd!!\0"
    longer = content[:12] + note + content[12:] + note
    longer = longer[:4] + struct.pack("<I", len(longer) - 8) + longer[8:]
    np.testing.assert_array_equal(decode(longer)[0], decode(content)[0])
    with pytest.raises(DataError, match="10 bytes are missing"):
        decode(longer[: -len(note) - 10])


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all " * 9])
def test_what_is_no_audio_is_named(tmp_path, suffix, content):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    for read in (decode, probe):
        with pytest.raises(DataError, match=rf"x\.{suffix}: cannot be read as audio"):
            read(path)


def test_a_file_without_samples_and_a_missing_file_are_named(tmp_path):
    soundfile.write(tmp_path / "none.wav", WAVE[:0], RATE)
    with pytest.raises(DataError, match=r"none\.wav: 0 of 0 samples"):
        decode(tmp_path / "none.wav")
    with pytest.raises(DataError, match=r"gone\.flac: cannot be read"):
        decode(tmp_path / "gone.flac")
    with pytest.raises(DataError, match=r"gone\.flac: cannot be read"):
        probe(tmp_path / "gone.flac")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_named(tmp_path, value):
    wave = WAVE.copy()
    wave[77] = value
    soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"x\.wav: NaN or infinite samples; replace it"):
        decode(tmp_path / "x.wav")
    np.testing.assert_array_equal(decode(tmp_path / "x.wav", 0, 77)[0], WAVE[:77])


def test_a_start_behind_the_end_is_an_error(path):
    with pytest.raises(DataError, match=path.name):
        decode(path, 3 * RATE, 4 * RATE)
