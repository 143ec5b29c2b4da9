"""The encoder of Whisper for utterances of any length.

Imports transformers' models, which takes seconds; wesp_lap.frontends.whisper imports it when used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class UnpaddedWhisperEncoder(WhisperEncoder):
    """Whisper's encoder without the rule that all input is padded to 30 seconds.

    It is built and loaded as with AutoModel; a whole Whisper leaves its decoder behind.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(model\.)?decoder\.", r"^proj_out\."]  # noqa: RUF012

    # SpecAugment, of which an encoder alone has none.
    _mask_input_features: Any = WhisperModel._mask_input_features

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.input_dropout = nn.Dropout(config.dropout)

    @classmethod
    def from_config(cls, config: WhisperConfig) -> UnpaddedWhisperEncoder:
        """Build it with random weights."""
        return cls(config)

    @classmethod
    def from_pretrained(cls, weights: str, **options: Any) -> Any:  # type: ignore[override]
        """Load it from the weights of an encoder or of a whole Whisper."""
        mapping = {r"^(model\.)?encoder\.": ""}
        loaded = super().from_pretrained(weights, key_mapping=mapping, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._weight_conversions = None  # save_pretrained would undo the mapping, and fail
        return loaded

    def forward(self, features: Tensor, frames: int, padding: Tensor | None = None) -> Tensor:
        """Map log-mel spectrograms to the last state, (B, ``frames``, D).

        Args:
            features: (B, bins, F) with the frames of the spectrogram that the convolutions hear:
                one more than twice as many as ``frames``, unless that is the longest input.
            frames: Frames to compute.
            padding: (B, ``frames``), true in the padding of rows, which no other frame attends to.
        """
        features = self._mask_input_features(features)
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(features))))[..., :frames].transpose(1, 2)
        hidden = self.input_dropout(hidden + self.embed_positions.weight[:frames])
        mask = None
        if padding is not None:
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=(~padding).long()
            )
        for layer in self.layers:
            dropped = self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop
            if not dropped:
                hidden = layer(hidden, mask)
        return self.layer_norm(hidden)
