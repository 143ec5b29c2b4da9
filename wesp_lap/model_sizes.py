"""Sizes of the published models: each is built without memory, and its parameters counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wesp_lap.backends import BACKENDS
from wesp_lap.coerce import Section
from wesp_lap.config import build
from wesp_lap.frontends import FRONTENDS

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def _transformer(**config: Any) -> Section:
    return Section("transformer", {"config": config})


PUBLISHED_FRONTENDS: Mapping[str, Section] = {
    "fbank-80": Section("fbank"),
    "wav2vec2-base": _transformer(model_type="wav2vec2"),
    "wav2vec2-large-lv60": _transformer(model_type="wav2vec2", conv_bias=True, **_LARGE),
    "hubert-base": _transformer(model_type="hubert"),
    "wavlm-base": _transformer(model_type="wavlm"),
    "wavlm-base-plus": _transformer(model_type="wavlm"),
    "wavlm-large": _transformer(model_type="wavlm", **_LARGE),
    "conformer-base": _transformer(model_type="hubert-conformer"),
    "w2v-bert-2.0": _transformer(model_type="wav2vec2-bert"),
}
"""Configurations of published frontends; where a key is missing, its class has the value."""


@dataclass(frozen=True)
class Combination:
    """A backend on a frontend, with the size that its paper prints."""

    model: str
    backend: Section
    frontend: str
    paper: str = "-"


@dataclass(frozen=True)
class Size:
    """Parameters of a combination; the classifier of training is never counted."""

    combination: Combination
    parameters: int
    """Of the backend alone, which is what papers print beside the frontend's."""
    frontend_parameters: int


def _lap(heads: int, **options: str) -> Section:
    return Section("lap_astp", {"heads": heads, **options})


_SOFTMAX_SUM = {"score": "softmax", "pool": "sum"}
_XVECTOR = Section("xvector")
_ECAPA = {channels: Section("ecapa_tdnn", {"channels": channels}) for channels in (512, 1024)}
# Self-pre-training paper: embeddings of 256 numbers.
_ECAPA_256 = Section("ecapa_tdnn", {"channels": 1024, "embed_dim": 256})
_MHFA = {heads: Section("mhfa", {"heads": heads}) for heads in (8, 32, 64)}
_BASE = ("wav2vec2-base", "hubert-base", "wavlm-base", "wavlm-base-plus")


def combinations() -> Iterator[Combination]:
    """Yield what the tables of the papers hold, and the known anchors beside them."""
    yield Combination("x-vector", _XVECTOR, "fbank-80", "4.6")
    yield Combination("ECAPA-TDNN C=512", _ECAPA[512], "fbank-80", "6.19")
    yield Combination("ECAPA-TDNN C=1024", _ECAPA[1024], "fbank-80", "14.7")
    yield Combination("ResNet34", Section("resnet34"), "fbank-80", "6.63")
    for name in ("wavlm-base", "wavlm-base-plus"):
        yield Combination("x-vector", _XVECTOR, name, "+6.4")
        yield Combination("ECAPA-TDNN C=512", _ECAPA[512], name, "+8.0")
        yield Combination("MHFA 8 heads", _MHFA[8], name, "+0.4")
        yield Combination("MHFA 32 heads", _MHFA[32], name)
        yield Combination("MHFA 64 heads", _MHFA[64], name, "+2.2")
        yield Combination("LAP + ASTP", _lap(12), name, "+1.7")
    yield Combination("x-vector", _XVECTOR, "wavlm-large", "+7.0")
    yield Combination("ECAPA-TDNN C=512", _ECAPA[512], "wavlm-large", "+8.6")
    yield Combination("MHFA 64 heads", _MHFA[64], "wavlm-large", "+2.2 (open source 2.37)")
    yield Combination("LAP + ASTP", _lap(16), "wavlm-large", "+2.3")
    yield Combination("CA-MHFA 64 groups", Section("ca_mhfa"), "wavlm-large")
    for name in (*_BASE, "wavlm-large"):
        heads = 16 if name == "wavlm-large" else 12
        yield Combination("SUPERB + ASTP", Section("superb_astp"), name)
        yield Combination("LAP Softmax-Sum + ASTP", _lap(heads, **_SOFTMAX_SUM), name)
        yield Combination("LAP Sigmoid-Max + ASTP", _lap(heads), name)
    for name in ("hubert-base", "conformer-base", "wavlm-base"):
        yield Combination("ECAPA-TDNN C=1024 E=256", _ECAPA_256, name)
        yield Combination("MHFA 64 heads", _MHFA[64], name)
    for blocks in (1, 2, 3):
        section = Section("universal_pooling", {"num_blocks": blocks})
        label = f"Universal Pooling, {blocks} block{'s' if blocks > 1 else ''}"
        yield Combination(label, section, "wav2vec2-base")
    yield Combination("L-TDNN D3", Section("l_tdnn_d3"), "wavlm-base-plus", "6.48")
    yield Combination("L-TDNN ECAPA", Section("l_tdnn_ecapa"), "wavlm-base-plus", "5.72")
    yield Combination("Adapter-MFA", Section("adapter_mfa"), "w2v-bert-2.0", "+6.2")


def sizes() -> list[Size]:
    """Build every combination on the meta device, and count."""
    with torch.device("meta"):
        frontends = {
            name: build(FRONTENDS, section, "frontend")
            for name, section in PUBLISHED_FRONTENDS.items()
        }
        return [_size(one, frontends[one.frontend]) for one in combinations()]


def _size(combination: Combination, frontend: nn.Module) -> Size:
    backend = build(
        BACKENDS,
        combination.backend,
        "backend",
        num_layers=frontend.num_layers,
        input_dim=frontend.hidden_size,
    )
    return Size(combination, _count(backend), _count(frontend))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
