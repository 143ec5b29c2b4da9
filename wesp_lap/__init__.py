"""Speaker verification with layer-pooled self-supervised Transformers."""

from wesp_lap import _torchaudio

__version__ = "0.1.0"

_torchaudio.install_guard()
