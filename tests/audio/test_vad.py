"""Speech by energy: against Kaldi's decisions worked out frame by frame, and what it is for."""

import sys
import types

import numpy as np
import pytest
import torch

from wesp_lap.audio.vad import SileroVad, energy_vad, keep_speech
from wesp_lap.errors import ConfigError


def by_frame(wave, rate):
    """Kaldi's compute-vad as its documentation says it, one frame at a time."""
    shift, size = rate // 100, rate // 40
    energies = []
    for start in range(0, len(wave) - size + 1, shift):
        frame = np.asarray(wave[start : start + size], np.float64) * 32768
        energies.append(np.log(max(((frame - frame.mean()) ** 2).sum(), 1.1920929e-07)))
    threshold = 5.5 + 0.5 * np.mean(energies)
    decisions = []
    for centre in range(len(energies)):
        around = energies[max(0, centre - 2) : centre + 3]
        decisions.append(sum(energy > threshold for energy in around) >= 0.12 * len(around))
    return decisions


def frames_of(pieces, count, shift):
    inside = np.zeros(count, bool)
    for start, stop in pieces:
        inside[start // shift : -(-stop // shift)] = True
    return inside.tolist()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_decisions_are_those_of_kaldi(rate):
    rng = np.random.default_rng(rate)
    for _ in range(5):
        levels = 10.0 ** rng.uniform(-4, -0.5, 12)
        wave = np.concatenate([rng.normal(0, level, rng.integers(300, 5000)) for level in levels])
        wave = (wave + 0.01).astype(np.float32)
        expected = by_frame(wave, rate)
        assert any(expected) and not all(expected)
        assert frames_of(energy_vad(wave, rate), len(expected), rate // 100) == expected


def test_pieces_are_where_the_speech_is():
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 1e-4, 5 * 16000).astype(np.float32)
    wave[16000:32000] += rng.normal(0, 0.1, 16000).astype(np.float32)
    wave[56000:] += rng.normal(0, 0.1, 24000).astype(np.float32)
    (start, stop), (second, end) = energy_vad(wave)
    assert abs(start - 16000) <= 800 and abs(stop - 32000) <= 800
    assert abs(second - 56000) <= 800 and end == len(wave)
    speech = keep_speech(wave, [(start, stop), (second, end)])
    np.testing.assert_array_equal(speech, np.concatenate([wave[start:stop], wave[second:]]))


@pytest.mark.parametrize("samples", [0, 1, 100, 16000])
def test_silence_has_no_speech(samples):
    assert energy_vad(np.zeros(samples, np.float32)) == []


def test_the_level_of_the_recording_does_not_matter_much():
    rng = np.random.default_rng(1)
    wave = rng.normal(0, 1e-3, 48000)
    wave[16000:32000] *= 100
    loud, soft = (energy_vad((gain * wave).astype(np.float32)) for gain in (1.0, 0.3))
    assert len(loud) == 1 and loud == soft


def test_what_lies_beyond_the_end_is_left_out():
    wave = np.arange(10, dtype=np.float32)
    assert keep_speech(wave, [(2, 4), (8, 20), (30, 40)]).tolist() == [2, 3, 8, 9]
    assert keep_speech(wave, []).tolist() == []


def test_without_its_package_silero_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ConfigError, match="pip install silero-vad"):
        SileroVad()


def test_silero_is_asked_for_samples_and_leaves_the_threads_alone(monkeypatch):
    calls = []

    def find(audio, model, sampling_rate):
        calls.append((audio.shape, model, sampling_rate))
        return [{"start": 5, "end": 9}]

    package = types.ModuleType("silero_vad")
    package.get_speech_timestamps, package.load_silero_vad = find, lambda: "model"
    monkeypatch.setitem(sys.modules, "silero_vad", package)
    threads = torch.get_num_threads()
    assert SileroVad()(np.zeros(100, np.float32), 16000) == [(5, 9)]
    assert calls == [((100,), "model", 16000)]
    assert torch.get_num_threads() == threads


def test_the_real_silero_finds_nothing_in_silence():
    pytest.importorskip("silero_vad")
    rng = np.random.default_rng(0)
    vad = SileroVad()
    assert vad(np.zeros(16000, np.float32)) == []
    assert vad(rng.normal(0, 1e-3, 16000).astype(np.float32)) == []
