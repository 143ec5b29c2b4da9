"""Backends: the layer states of a frontend to one speaker embedding.

A backend takes the tuple of N layer states, each (B, T, D), that every frontend returns and gives
embeddings (B, E). Inside the room features are channel-last, (B, T, C), so that every 1x1
convolution of the papers is one matrix product over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from wesp_lap.backends.adapter_mfa import AdapterMfa
from wesp_lap.backends.ecapa_tdnn import EcapaTdnn
from wesp_lap.backends.l_tdnn import LTdnnD3, LTdnnEcapa
from wesp_lap.backends.lap import LapAstp
from wesp_lap.backends.mhfa import CaMhfa, Mhfa
from wesp_lap.backends.one_state import FirstFrame, LayerMean
from wesp_lap.backends.resnet import ResNet34
from wesp_lap.backends.superb import SuperbAstp
from wesp_lap.backends.universal_pooling import UniversalPooling
from wesp_lap.backends.xvector import XVector

BACKENDS: Mapping[str, Callable[..., nn.Module]] = {
    "adapter_mfa": AdapterMfa,
    "ca_mhfa": CaMhfa,
    "ecapa_tdnn": EcapaTdnn,
    "first_frame": FirstFrame,
    "l_tdnn_d3": LTdnnD3,
    "l_tdnn_ecapa": LTdnnEcapa,
    "lap_astp": LapAstp,
    "layer_mean": LayerMean,
    "mhfa": Mhfa,
    "resnet34": ResNet34,
    "superb_astp": SuperbAstp,
    "universal_pooling": UniversalPooling,
    "xvector": XVector,
}
