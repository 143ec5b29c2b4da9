"""Waveform in, waveform out: decoding, resampling, augmentation."""
