"""The model types of the transformers library that serve as frontends."""

from __future__ import annotations

from collections.abc import Mapping

from wesp_lap.frontends.family import Family
from wesp_lap.frontends.waveform import ConformerFamily, WaveformFamily, WavLMFamily

FAMILIES: Mapping[str, Family] = {
    "wavlm": WavLMFamily(),
    "hubert": WaveformFamily(),
    "wav2vec2": WaveformFamily(),
    "wav2vec2-conformer": ConformerFamily(),
}
