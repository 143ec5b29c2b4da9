"""The model types that serve as frontends: the transformers library's, and one of ours."""

from __future__ import annotations

from collections.abc import Mapping

from wesp_lap.frontends.family import Family
from wesp_lap.frontends.w2v_bert import W2vBertFamily
from wesp_lap.frontends.waveform import ConformerFamily, WaveformFamily, WavLMFamily
from wesp_lap.frontends.whisper import WhisperFamily

FAMILIES: Mapping[str, Family] = {
    "wavlm": WavLMFamily(),
    "hubert": WaveformFamily(),
    "hubert-conformer": ConformerFamily(),
    "wav2vec2": WaveformFamily(),
    "wav2vec2-conformer": ConformerFamily(),
    "wav2vec2-bert": W2vBertFamily(),
    "whisper": WhisperFamily(),
}
