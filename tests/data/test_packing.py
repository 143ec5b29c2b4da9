"""The audio that goes into shards: formats, rates, segments, speech pieces, commands."""

import io
import logging
import os

import numpy as np
import pytest
import soundfile
from corpora import noise, pack, read_as_wespeaker, write_data

from wesp_lap.data.index import read_index
from wesp_lap.errors import DataError


def test_plain_wavs_tell_where_their_samples_are(tmp_path, data, waves):
    _, tars = pack(data, tmp_path, audio_format="wav")
    with open(tars[0], "rb") as stream:
        content = stream.read()
    for entry in read_index(tars[0]):
        start = entry.offset + entry.pcm
        assert (entry.pcm, entry.rate) == (44, 16000)
        samples = np.frombuffer(content, "<i2", entry.samples, start)
        np.testing.assert_array_equal(samples / 32768, waves[entry.key])


@pytest.mark.parametrize(
    ("options", "pcm"),
    [
        ({"format": "WAVEX", "subtype": "PCM_16"}, 80),
        ({"format": "WAV", "subtype": "FLOAT"}, -1),
        ({"format": "WAV", "subtype": "PCM_24"}, -1),
        ({"format": "RF64", "subtype": "PCM_16"}, -1),
    ],
)
def test_other_kinds_of_wav_are_kept_too(tmp_path, options, pcm):
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}, "wav")
    soundfile.write(data / "wav" / "000.wav", noise(0, 4000), 16000, **options)
    _, tars = pack(data, tmp_path)
    [entry], [sample] = read_index(tars[0]), read_as_wespeaker(tars[0])
    if options["format"] != "RF64":
        assert sample["wav"] == (data / "wav" / "000.wav").read_bytes() and entry.pcm == pcm
    wave, _ = soundfile.read(io.BytesIO(sample["wav"]), dtype="float32")
    np.testing.assert_array_equal(wave, noise(0, 4000))


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_out_of_a_pipe_gets_its_length(tmp_path, length):
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}, "wav")
    path = data / "wav" / "000.wav"
    content = bytearray(path.read_bytes())
    content[40:44] = length.to_bytes(4, "little")
    path.write_bytes(content)
    if length == 0:
        with pytest.raises(DataError):
            pack(data, tmp_path)
        return
    _, tars = pack(data, tmp_path)
    [entry], [sample] = read_index(tars[0]), read_as_wespeaker(tars[0])
    assert entry.pcm == 44 and entry.samples == 4000
    wave, _ = soundfile.read(io.BytesIO(sample["wav"]), dtype="float32")
    np.testing.assert_array_equal(wave, noise(0, 4000))


@pytest.mark.parametrize("fault", ["cut", "flipped"])
def test_headers_are_enough_when_asked_for(tmp_path, fault):
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 40000)})
    path = data / "wav" / "000.flac"
    content = bytearray(path.read_bytes())
    if fault == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content if fault == "flipped" else content[:20000])
    with pytest.raises(DataError, match=r"s1-a: .*000\.flac"):
        pack(data, tmp_path)
    counts, _ = pack(data, tmp_path, check="headers")
    assert counts["seconds"] == 2.5
    wav = write_data(tmp_path / "wav", {"s1-a": noise(0, 40000)}, "wav")
    os.truncate(wav / "wav" / "000.wav", 20000)
    with pytest.raises(DataError, match="bytes are missing at the end"):
        pack(wav, tmp_path, check="headers")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("own", [True, False])
def test_speech_is_cut_out_and_joined(tmp_path, suffix, own, caplog):
    waves = {"s1-a": noise(0, 32000), "s1-b": noise(1, 16000), "s2-c": noise(2, 16000)}
    data = write_data(tmp_path / "data", waves, suffix)
    vad = data / "vad" if own else tmp_path / "other"
    vad.write_text("s1-a 0.10003 0.5\ns1-a 1.5 3\nx s1-b 0.25 0.75\n")
    _, tars = pack(data, tmp_path, vad=True if own else str(vad))
    got = {
        sample["key"]: soundfile.read(io.BytesIO(sample[suffix]), dtype="float32")[0]
        for sample in read_as_wespeaker(tars[0])
    }
    a = waves["s1-a"]
    np.testing.assert_array_equal(got["s1-a"], np.concatenate([a[1600:8000], a[24000:]]))
    np.testing.assert_array_equal(got["s1-b"], waves["s1-b"][4000:12000])
    np.testing.assert_array_equal(got["s2-c"], waves["s2-c"])
    assert "1 utterances without speech pieces stay whole" in caplog.text
    assert {e.key: e.samples for e in read_index(tars[0])} == {k: len(w) for k, w in got.items()}


def test_speech_is_cut_at_the_rate_of_the_file_and_inside_segments(tmp_path):
    wave = noise(0, 32000)
    data = write_data(tmp_path / "data", {"rec": wave}, "wav")
    (data / "segments").write_text("s1-a rec 0.5 2\n")
    (data / "utt2spk").write_text("s1-a s1\n")
    (data / "vad").write_text("s1-a 0.5 1\n")
    _, tars = pack(data, tmp_path, vad=True)
    got, _ = soundfile.read(io.BytesIO(read_as_wespeaker(tars[0])[0]["wav"]), dtype="float32")
    np.testing.assert_array_equal(got, wave[16000:24000])


def test_speech_that_is_not_there_is_named(tmp_path, data):
    with pytest.raises(DataError, match=r"vad: no such file; --vad FILE names one elsewhere"):
        pack(data, tmp_path, vad=True)
    (data / "vad").write_text("s0-u00 50 60\n")
    with pytest.raises(DataError, match=r"s0-u00: its speech pieces \(vad\) lie beyond its end"):
        pack(data, tmp_path, vad=True)
    (data / "vad").write_text("other-u00 1 2\n")
    with pytest.raises(DataError, match="speech pieces names none of its utterances"):
        pack(data, tmp_path, vad=True)
    (data / "vad").write_text("s0-u00 2 1\n")
    with pytest.raises(DataError, match=r"vad:1: expected 0 <= start < end"):
        pack(data, tmp_path, vad=True)


def with_pipes(data, command="cat {path} |"):
    lines = [line.split() for line in (data / "wav.scp").read_text().splitlines()]
    text = "".join(f"{key} {command.format(path=path)}\n" for key, path in lines)
    (data / "wav.scp").write_text(text)
    return data


@pytest.mark.parametrize("jobs", [1, 2])
def test_commands_give_the_same_shards_as_their_files(tmp_path, data, waves, jobs):
    wavs = write_data(tmp_path / "wavs", waves, "wav")
    _, expected = pack(wavs, tmp_path / "a", utterances_per_shard=4)
    with_pipes(wavs)
    _, tars = pack(wavs, tmp_path / "b", utterances_per_shard=4, allow_pipe=True, jobs=jobs)
    for one, other in zip(expected, tars, strict=True):
        with open(one, "rb") as first, open(other, "rb") as second:
            assert first.read() == second.read()


def test_commands_run_without_a_shell_once_and_are_logged(tmp_path, caplog, monkeypatch):
    wave = noise(0, 48000)
    data = with_pipes(
        write_data(tmp_path / "data", {"rec": wave}, "wav"),
        f"sh -c 'echo ran >> {tmp_path}/runs; cat $0' {{path}} |",
    )
    (data / "segments").write_text("".join(f"s1-{n} rec {n / 2} {n / 2 + 0.5}\n" for n in range(6)))
    (data / "utt2spk").write_text("".join(f"s1-{n} s1\n" for n in range(6)))
    monkeypatch.setattr(logging.getLogger("wesp_lap"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="wesp_lap"):
        _, tars = pack(data, tmp_path, utterances_per_shard=2, allow_pipe=True)
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert f"running: sh -c 'echo ran >> {tmp_path}/runs; cat $0'" in caplog.text
    got = {s["key"]: s["wav"] for tar in tars for s in read_as_wespeaker(tar)}
    for number in range(6):
        part, _ = soundfile.read(io.BytesIO(got[f"s1-{number}"]), dtype="float32")
        np.testing.assert_array_equal(part, wave[8000 * number : 8000 * number + 8000])
    assert not list((tmp_path / "shards").glob(".*"))
    pack(data, tmp_path, utterances_per_shard=2, allow_pipe=True)
    assert (tmp_path / "runs").read_text() == "ran\n"  # nothing was left to do
    os.unlink(tars[1])
    pack(data, tmp_path, utterances_per_shard=2, allow_pipe=True)
    assert (tmp_path / "runs").read_text() == "ran\n" * 2


@pytest.mark.parametrize("segments", [True, False])
def test_commands_that_fail_and_those_that_are_not_allowed_are_named(tmp_path, segments):
    data = with_pipes(write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}), "false {path} |")
    if segments:
        (data / "segments").write_text("s1-x s1-a 0 0.1\n")
        (data / "utt2spk").write_text("s1-x s1\n")
    with pytest.raises(DataError, match=r"is a command, not a file.*or run it here: --allow_pipe"):
        pack(data, tmp_path)
    with pytest.raises(DataError, match=r"s1-[ax]: 'false .*failed with exit codes \[1\]"):
        pack(data, tmp_path, allow_pipe=True)


def test_a_command_may_write_other_audio(tmp_path):
    data = with_pipes(write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}, "flac"))
    _, tars = pack(data, tmp_path, allow_pipe=True)
    [sample] = read_as_wespeaker(tars[0])
    assert sample["wav"][:4] == b"RIFF"
    wave, _ = soundfile.read(io.BytesIO(sample["wav"]), dtype="float32")
    np.testing.assert_array_equal(wave, noise(0, 4000))


def test_full_scale_samples_survive_every_format(tmp_path):
    wave = np.array([-32768, 32767, -1, 0, 1, 32766] * 500, dtype=np.int16)
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 100)}, "wav")
    for source in ("WAV", "FLAC"):
        path = data / "wav" / f"x.{source.lower()}"
        soundfile.write(path, wave, 16000, subtype="PCM_16")
        (data / "wav.scp").write_text(f"s1-a {path}\n")
        for target in ("wav", "flac"):
            _, tars = pack(data, tmp_path, audio_format=target)
            [sample] = read_as_wespeaker(tars[0])
            found, _ = soundfile.read(io.BytesIO(sample[target]), dtype="int16")
            np.testing.assert_array_equal(found, wave)


def test_segments_are_cut_out_of_their_recordings(tmp_path):
    wave = noise(0, 48000)
    data = write_data(tmp_path / "data", {"rec1": wave})
    cuts = {"s1-a": (0, 1.001), "s1-b": (1.001, 1.1), "s2-c": (1.1, 3)}
    lines = "".join(f"{key} rec1 {start} {end}\n" for key, (start, end) in cuts.items())
    (data / "segments").write_text(lines)
    (data / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in cuts))
    _, tars = pack(data, tmp_path)
    got = {
        sample["key"]: soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")[0]
        for sample in read_as_wespeaker(tars[0])
    }
    assert [len(got[key]) for key in cuts] == [16016, 1584, 30400]
    np.testing.assert_array_equal(np.concatenate([got[key] for key in cuts]), wave)
    assert {entry.key: entry.samples for entry in read_index(tars[0])}["s2-c"] == 30400


def test_a_segment_behind_the_end_is_a_bad_utterance(tmp_path):
    data = write_data(tmp_path / "data", {"rec1": noise(0, 16000)})
    (data / "segments").write_text("s1-a rec1 0 1\ns1-b rec1 1.5 2\n")
    (data / "utt2spk").write_text("s1-a s1\ns1-b s1\n")
    with pytest.raises(DataError, match=r"s1-b: .*000\.flac: the segment lies beyond the end"):
        pack(data, tmp_path)


def test_other_rates_are_resampled(tmp_path):
    time = np.arange(8000) / 8000
    tone = (0.3 * np.sin(2 * np.pi * 500 * time)).astype(np.float32)
    data = write_data(tmp_path / "data", {"s1-a": tone}, "wav", 8000)
    _, tars = pack(data, tmp_path)
    [sample] = read_as_wespeaker(tars[0])
    wave, rate = soundfile.read(io.BytesIO(sample["wav"]), dtype="float32")
    assert (rate, len(wave)) == (16000, 16000) and read_index(tars[0])[0].samples == 16000
    expected = 0.3 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    np.testing.assert_allclose(wave[200:-200], expected[200:-200], atol=2e-3)


@pytest.mark.parametrize(
    ("source", "audio_format", "suffix"),
    [
        (".wav", "keep", "wav"),
        (".wav", "flac", "flac"),
        (".flac", "wav", "wav"),
        (".WAV", "keep", "wav"),
        (".ogg", "flac", "flac"),
        (".ogg", "keep", "ogg"),
        ("", "keep", "flac"),
    ],
)
def test_audio_formats(tmp_path, source, audio_format, suffix):
    data = write_data(tmp_path / "data", {"s1-a": noise(0, 4000)}, "wav")
    path = data / "wav" / f"000{source}"
    form = {".ogg": "OGG", ".flac": "FLAC"}.get(source, "WAV")
    subtype = "VORBIS" if source == ".ogg" else "PCM_16"
    soundfile.write(path, noise(0, 4000), 16000, subtype=subtype, format=form)
    (data / "wav.scp").write_text(f"s1-a {path}\n")
    _, tars = pack(data, tmp_path, audio_format=audio_format)
    [sample] = read_as_wespeaker(tars[0])
    assert list(sample) == ["key", "spk", suffix]
    wave, _ = soundfile.read(io.BytesIO(sample[suffix]), dtype="float32")
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(wave, expected, atol=1 / 32768)
