"""Whisper's spectrogram against the feature extractor of the transformers library."""

import pytest
import torch

import wesp_lap  # noqa: F401  (torchaudio loads without its compiled part)
from wesp_lap.audio.log_mel import log_mel

LONGEST = 480000


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whisper(wave, bins):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=bins)
    found = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")
    return found["input_features"][0]


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [320, 4001, 16000, 479_900, 480_000])
def test_the_first_frames_of_the_extractor_that_pads_to_30_seconds(samples, bins):
    wave = noise(samples, seed=samples)
    wave[-50:] *= 20  # the loudest frame, on which the floor depends, is at the end
    ours, theirs = log_mel(wave.unsqueeze(0), bins, LONGEST)[0], whisper(wave, bins)
    assert ours.dtype == torch.float32
    assert ours.shape[1] == min(samples // 160 + 4, 3000)
    torch.testing.assert_close(ours, theirs[:, : ours.shape[1]], atol=1e-5, rtol=0)


def test_silence():
    assert torch.equal(log_mel(torch.zeros(1, 800), 80, LONGEST), torch.full((1, 80, 9), -1.5))


def test_a_padded_row_is_the_row_alone():
    waves = noise(2, 5000)
    waves[0, 3000:] = 0
    alone = log_mel(waves[:1, :3000], 80, LONGEST)
    batched = log_mel(waves, 80, LONGEST)[:1]
    torch.testing.assert_close(batched[..., : alone.shape[-1]], alone)
    assert (batched[..., 20:] == batched.min()).all()


def test_float32_under_autocast():
    waves = noise(1, 1000)
    with torch.autocast("cpu", torch.bfloat16):
        inside = log_mel(waves, 80, LONGEST)
    assert torch.equal(inside, log_mel(waves, 80, LONGEST))
