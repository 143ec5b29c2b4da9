"""Kaldi's log-mel filterbank features: batched, on any device, equal to torchaudio's.

Whatever starts from the power spectrum of Kaldi's frames inherits it from Spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wesp_lap.audio.tables import counted, table

# Kaldi's floor of what goes into a logarithm: the epsilon of float32.
_FLOOR = 1.1920928955078125e-07


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Power spectrum of overlapping windows of a waveform. Source: Kaldi's feature-window.

    Args:
        sample_rate: In Hz.
        frame_length_ms: Length of a window.
        frame_shift_ms: Distance from one window to the next.
        window: Shape of the window. Kaldi's default is "povey", recipes for speaker embeddings
            often take "hamming".
        preemphasis: Share of the sample before that is taken from each sample.
        remove_dc_offset: Subtract the mean of each window.
        use_power: Squared magnitudes; false gives magnitudes.
        snip_edges: Only windows that lie in the waveform; false puts one at each shift and
            mirrors the waveform at its ends.
        dither: Standard deviation of noise that is added to each window in training, on the
            scale of 16-bit samples.
        scale: Factor on the waveform; Kaldi reads samples in [-1, 1] as 16-bit integers.
    """

    sample_rate: int = 16000
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    window: Literal["povey", "hamming"] = "povey"
    preemphasis: float = 0.97
    remove_dc_offset: bool = True
    use_power: bool = True
    snip_edges: bool = True
    dither: float = 0.0
    scale: float = 32768.0

    def __post_init__(self) -> None:
        if self.frame_shift < 1 or self.frame_length < 2:
            raise ValueError("frame_length_ms and frame_shift_ms must span some samples")
        if self.window not in ("povey", "hamming"):
            raise ValueError(f"window must be povey or hamming, got {self.window!r}")
        if not 0 <= self.preemphasis <= 1 or self.dither < 0:
            raise ValueError("preemphasis in [0, 1] and dither >= 0 are needed")

    @property
    def frame_length(self) -> int:
        """Samples of a window."""
        return int(self.sample_rate * self.frame_length_ms * 0.001)

    @property
    def frame_shift(self) -> int:
        """Samples from one window to the next."""
        return int(self.sample_rate * self.frame_shift_ms * 0.001)

    @property
    def fft_size(self) -> int:
        """The next power of two, to which windows are padded."""
        return 1 << (self.frame_length - 1).bit_length()

    def num_frames(self, samples: int) -> int:
        """Return the number of windows T of a number of samples."""
        if not self.snip_edges:
            return (samples + self.frame_shift // 2) // self.frame_shift
        return max(0, 1 + (samples - self.frame_length) // self.frame_shift)

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give a number of windows."""
        if not self.snip_edges:
            return frames * self.frame_shift - self.frame_shift // 2
        return (frames - 1) * self.frame_shift + self.frame_length

    def spectrum(self, waves: Tensor, training: bool = False) -> Tensor:
        """Map waveforms (B, S) to power spectra (B, T, ``fft_size`` // 2 + 1).

        Args:
            waves: Samples in [-1, 1]; float64 is computed in float64, all else in float32.
            training: Whether dither is added.
        """
        waves = waves.to(torch.promote_types(waves.dtype, torch.float32)) * self.scale
        frames = self._frames(waves)
        if frames.shape[1] == 0:
            return waves.new_zeros(len(waves), 0, self.fft_size // 2 + 1)
        if training and self.dither > 0:
            frames = frames + self.dither * torch.randn_like(frames)
        if self.remove_dc_offset:
            frames = frames - frames.mean(dim=-1, keepdim=True)
        window = table(_window, (self.window, self.frame_length), frames)
        # The first sample of a window takes the place of the one before it.
        first = frames[..., :1] * (1 - self.preemphasis)
        rest = torch.sub(frames[..., 1:], frames[..., :-1], alpha=self.preemphasis)
        lines = torch.fft.rfft(torch.cat([first, rest], dim=-1) * window, self.fft_size)
        power = lines.real.square() + lines.imag.square()
        return power if self.use_power else power.sqrt()

    def _frames(self, waves: Tensor) -> Tensor:
        """Return a view of the windows, (B, T, ``frame_length``)."""
        samples = waves.shape[-1]
        count = self.num_frames(samples)
        if count == 0:
            return waves.new_zeros(len(waves), 0, self.frame_length)
        if not self.snip_edges:
            before = self.frame_length // 2 - self.frame_shift // 2
            stop = (count - 1) * self.frame_shift + self.frame_length - before
            places = torch.arange(-before, stop, device=waves.device) % (2 * samples)
            waves = waves[:, torch.minimum(places, 2 * samples - 1 - places)]
        return waves.unfold(-1, self.frame_length, self.frame_shift)


@dataclass(frozen=True, kw_only=True)
class Fbank(Spectrum):
    """Logarithm of the energies in triangular bands on the mel scale; see Spectrum.

    Source: Kaldi's compute-fbank-feats. Called with waveforms.

    Args:
        num_mel_bins: Number of bands.
        low_freq: Lower edge of the first band in Hz.
        high_freq: Upper edge of the last band in Hz; from half the sampling rate when it is not
            above zero, as in Kaldi.
        floor: Smallest energy, which silence has.
    """

    num_mel_bins: int = 80
    low_freq: float = 20.0
    high_freq: float = 0.0
    floor: float = _FLOOR

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.band
        if not 0 <= low < high <= self.sample_rate / 2:
            raise ValueError(f"no band of frequencies from {low} to {high} Hz")
        if self.num_mel_bins < 1:
            raise ValueError(f"num_mel_bins must be at least 1, got {self.num_mel_bins}")
        if not (_mel_filters(*self._filters) > 0).any(dim=0).all():
            raise ValueError(
                f"num_mel_bins {self.num_mel_bins} is too many: bands would lie between the lines "
                f"of a spectrum of {self.fft_size} samples"
            )

    @property
    def band(self) -> tuple[float, float]:
        """Lower and upper edge of all bands in Hz."""
        nyquist = self.sample_rate / 2
        return self.low_freq, self.high_freq if self.high_freq > 0 else nyquist + self.high_freq

    @property
    def _filters(self) -> tuple[int, int, int, float, float]:
        return self.num_mel_bins, self.fft_size, self.sample_rate, *self.band

    def __call__(self, waves: Tensor, training: bool = False) -> Tensor:
        """Map waveforms (B, S) to features (B, T, ``num_mel_bins``); not under autocast.

        Args:
            waves: Samples in [-1, 1]; float64 is computed in float64, all else in float32.
            training: Whether dither is added.
        """
        with torch.autocast(waves.device.type, enabled=False):
            if waves.device.type == "cpu" and len(waves) > 1:
                # Twice as fast: the windows of one waveform stay in the processor's cache.
                return torch.cat([self._log_bands(row, training) for row in waves.split(1)])
            return self._log_bands(waves, training)

    def _log_bands(self, waves: Tensor, training: bool) -> Tensor:
        spectrum = self.spectrum(waves, training)
        bands = spectrum @ table(_mel_filters, self._filters, spectrum)
        return bands.clamp(min=self.floor).log()


def _window(name: str, length: int) -> Tensor:
    """Return a symmetric window (length,) in float64."""
    turn = 2 * math.pi * counted(length) / (length - 1)
    if name == "hamming":
        return 0.54 - 0.46 * turn.cos()
    return (0.5 - 0.5 * turn.cos()) ** 0.85


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)


def _mel_filters(bins: int, fft_size: int, sample_rate: int, low: float, high: float) -> Tensor:
    """Return weights (``fft_size`` // 2 + 1, ``bins``) of triangles, equally wide in mel.

    As in Kaldi, the line at half the sampling rate belongs to no band.
    """
    step = (_mel(high) - _mel(low)) / (bins + 1)
    lines = 1127 * (counted(fft_size // 2 + 1) * (sample_rate / fft_size / 700)).log1p()
    place = (lines - _mel(low)) / step
    weights = 1 - (place.unsqueeze(1) - 1 - counted(bins)).abs()
    weights[-1] = 0
    return weights.clamp(min=0)
