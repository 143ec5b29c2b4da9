"""What papers and published code say of the systems in egs/*/conf, written down apart from them.

Sizes: docs/methods.md, sections 1.1 and 2. Schedules: section 4.3, the settings of WeSpeaker's
recipes, and the published code of Universal Pooling.
"""

from typing import NamedTuple

WAV2VEC2 = HUBERT = 94_371_712
WAVLM = 94_381_936
WAVLM_LARGE = 315_453_120
CONFORMER = 172_633_984
W2V_BERT = 580_493_120
# Convolutions, projection, position convolution, norm and mask of 94,371,712, and one layer of
# twelve, each of which has 7,087,872.
WAV2VEC2_ONE_LAYER = 16_405_120
LORA_PARAMETERS = 24 * 2 * 2 * 64 * 1024

OWN_FRONTENDS = {"hubert-base": HUBERT, "wavlm-base": WAVLM, "conformer-base": CONFORMER}
"""Size of each kind of frontend that is pre-trained here."""


Rates = tuple[float, float, float, float]


class System(NamedTuple):
    """Sizes and schedule of a row.

    Args:
        protocol: Key of PROTOCOLS.
        frontend: Parameters; 0 for filterbanks, None when it is given on the command line.
        backend: Parameters behind the frontend.
    """

    protocol: str
    frontend: int | None
    backend: int


class Phase(NamedTuple):
    """A phase as published.

    Rates are those of the first step, of the peak, of the middle step, and of the last one. Margins
    are those of the first and of the last step; ``ramp`` is the epochs between which they rise.
    """

    epochs: int
    frozen: bool
    batch: int
    crop: float
    rates: Rates
    margin: tuple[float, float]
    ramp: tuple[int, int] = (0, 0)
    topk: int = 0
    penalty: float = 0.0
    speed: bool = False
    noise: float = 0.0
    optimizer: str = "adam"
    decay: float = 0.0


def _lap(frozen: bool) -> Phase:
    rates, margin = (1e-5, 1e-3, 5.90956e-4, 1e-5), (0.0, 0.3)
    return Phase(40, frozen, 512, 2, rates, margin, (0, 20), 5, 0.06, True, 0.6, decay=5e-5)


def _own(
    epochs: int, frozen: bool, crop: float, lr: tuple[float, float, float], margin: float
) -> Phase:
    """A rate that starts at its peak."""
    rates, margins = (lr[0], *lr), (margin, margin)
    return Phase(epochs, frozen, 100, crop, rates, margins, noise=1.0)


def _pooling(rates: Rates, frozen: bool = False, margin: float = 0.2) -> Phase:
    return Phase(10, frozen, 128, 3, rates, (margin, margin))


def _sgd(
    epochs: int,
    batch: int,
    crop: float,
    peak: float,
    half: float,
    last: float,
    margin: float,
    speed: bool,
) -> Phase:
    margins = (0.0 if epochs == 150 else margin, margin)
    rates, ramp = (0.0, peak, half, last), (19, 39) if epochs == 150 else (0, 0)
    return Phase(
        epochs,
        False,
        batch,
        crop,
        rates,
        margins,
        ramp,
        0,
        0.0,
        speed,
        0.6,
        optimizer="sgd",
        decay=1e-4,
    )


def _bert(epochs: int, frozen: bool, batch: int, crop: float, rates: Rates) -> Phase:
    last = epochs == 2
    margin = 0.5 if last else 0.2
    return Phase(
        epochs,
        frozen,
        batch,
        crop,
        rates,
        (margin, margin),
        speed=not last,
        noise=0.0 if last else 0.6667,
        optimizer="adamw",
        decay=1e-4,
    )


_LAP_LARGE_MARGIN = Phase(
    3, False, 512, 6, (5e-6, 5e-6, 5e-6, 5e-6), (0.5, 0.5), noise=0.6, decay=1e-5
)
_JOINT_OWN = _own(10, False, 3, (5e-4, 2.95245e-4, 1.9371e-4), 0.2)
_LARGE_MARGIN_OWN = _own(3, False, 5, (1.74339e-4, 1.56905e-4, 1.41215e-4), 0.5)

PROTOCOLS: dict[str, dict[str, Phase]] = {
    "lap": {
        "frozen": _lap(True),
        "joint": Phase(
            10,
            False,
            512,
            2,
            (5e-6, 5e-5, 3.14071e-5, 5e-6),
            (0.3, 0.3),
            (0, 0),
            5,
            0.06,
            noise=0.6,
            decay=1e-5,
        ),
        "large_margin": _LAP_LARGE_MARGIN,
    },
    "lap_frozen": {"frozen": _lap(True)},
    "lap_fbank": {"train": _lap(False), "large_margin": _LAP_LARGE_MARGIN},
    "self_pretraining": {
        "frozen": _own(10, True, 3, (5e-4, 2.95245e-4, 1.9371e-4), 0.2),
        "joint": _JOINT_OWN,
        "large_margin": _LARGE_MARGIN_OWN,
    },
    "random_init": {"joint": _JOINT_OWN, "large_margin": _LARGE_MARGIN_OWN},
    "universal_pooling": {"": _pooling((1.2e-4, 3e-3, 1.7605e-3, 1.2e-8), frozen=True)},
    "layer_mean": {"": _pooling((2e-4, 5e-3, 4.642e-3, 2e-8), margin=0.4)},
    "first_frame": {"": _pooling((5e-6, 5e-5, 5e-5, 5e-6))},
    "pooling_xvector": {"": _pooling((1e-3, 1e-3, 1e-3, 1e-3))},
    "pooling_ecapa": {"": _pooling((1e-8, 1e-3, 1e-8, 1e-8))._replace(decay=2e-5)},
    # 0.4 and 0.0002 are four times 0.1 and 0.00005; the peak is where the warm-up meets the fall.
    "wespeaker": {
        "train": _sgd(150, 256, 2.015, 0.29513, 8.94427e-3, 2e-4, 0.2, True),
        "large_margin": _sgd(5, 128, 6.015, 1.51572e-4, 1e-4, 5e-5, 0.5, False),
    },
    "wespeaker_wavlm": {
        "frozen": _sgd(150, 2048, 3, 2.21386, 0.032, 3.2e-4, 0.2, True)._replace(
            frozen=True, topk=5, penalty=0.06
        ),
        "joint": _sgd(20, 512, 3, 7.46426e-3, 4e-3, 2e-3, 0.2, True)._replace(topk=5, penalty=0.06),
        "large_margin": _sgd(20, 256, 6, 3.73213e-4, 2e-4, 1e-4, 0.5, False),
    },
    "w2v_bert": {
        "frozen": _bert(3 * 15, True, 512, 3, (1.3316e-7, 1e-4, 1e-4, 1e-5)),  # first: 1/751
        "joint": _bert(3 * 4, False, 512, 3, (1e-5, 1e-5, 5e-6, 5e-6)),
        "large_margin": _bert(2, False, 256, 6, (1e-5, 1e-5, 5e-6, 5e-6)),
    },
}

LOSSES = {
    "lap": ("aam", 30, 3, "mm", "lap"),
    "self_pretraining": ("aam", 30, 1, "mm", "mhfa"),
    "universal_pooling": ("aam", 30, 1, "mm", "lap"),
    "layer_mean": ("am", 30, 1, None, "lap"),
    "pooling_xvector": ("softmax", None, None, None, "lap"),
    "wespeaker": ("aam", 32, 1, "mmm", "wespeaker"),
    "wespeaker_wavlm": ("aam", 32, 3, "mmm", "wespeaker"),
    "w2v_bert": ("aam", 32, 1, "mmm", "wespeaker"),
}
"""Loss, scale, sub-centres, what replaces the margin at wide angles, and the set of augmentations.

By protocol; LOSS_OF says which of these the other protocols share.
"""
LOSS_OF = {
    "lap_frozen": "lap",
    "lap_fbank": "lap",
    "random_init": "self_pretraining",
    "first_frame": "universal_pooling",
    "pooling_ecapa": "universal_pooling",
}

_LAP_BASE, _LAP_LARGE = 1_713_780, 2_312_464
_OWN_ECAPA, _MHFA_64 = 18_376_333, 2_302_554

_VOXCELEB = {
    "lap/fbank_xvector": System("lap_fbank", 0, 4_617_620),
    "lap/fbank_ecapa_1024": System("lap_fbank", 0, 14_657_088),
    "lap/wavlm_base_xvector": System("lap", WAVLM, 6_378_913),
    "lap/wavlm_base_ecapa_512": System("lap", WAVLM, 7_952_013),
    "lap/wavlm_base_mhfa": System("lap", WAVLM, 460_322),
    "lap/wavlm_base_lap": System("lap", WAVLM, _LAP_BASE),
    "lap/wavlm_base_plus_xvector": System("lap", WAVLM, 6_378_913),
    "lap/wavlm_base_plus_ecapa_512": System("lap", WAVLM, 7_952_013),
    "lap/wavlm_base_plus_mhfa": System("lap", WAVLM, _MHFA_64),
    "lap/wavlm_base_plus_lap": System("lap", WAVLM, _LAP_BASE),
    "lap/wavlm_large_xvector": System("lap", WAVLM_LARGE, 7_034_285),
    "lap/wavlm_large_ecapa_512": System("lap", WAVLM_LARGE, 8_607_385),
    "lap/wavlm_large_mhfa": System("lap", WAVLM_LARGE, 2_368_114),
    "lap/wavlm_large_lap": System("lap", WAVLM_LARGE, _LAP_LARGE),
    "lap/wav2vec2_superb": System("lap_frozen", WAV2VEC2, 1_480_141),
    "lap/wav2vec2_lap_softmax_sum": System("lap_frozen", WAV2VEC2, _LAP_BASE),
    "lap/wav2vec2_lap": System("lap_frozen", WAV2VEC2, _LAP_BASE),
    "lap/hubert_superb": System("lap_frozen", HUBERT, 1_480_141),
    "lap/hubert_lap_softmax_sum": System("lap_frozen", HUBERT, _LAP_BASE),
    "lap/hubert_lap": System("lap_frozen", HUBERT, _LAP_BASE),
    "lap/wavlm_base_superb": System("lap_frozen", WAVLM, 1_480_141),
    "lap/wavlm_base_lap_softmax_sum": System("lap_frozen", WAVLM, _LAP_BASE),
    "lap/wavlm_base_plus_superb": System("lap_frozen", WAVLM, 1_480_141),
    "lap/wavlm_base_plus_lap_softmax_sum": System("lap_frozen", WAVLM, _LAP_BASE),
    "lap/wavlm_large_superb": System("lap_frozen", WAVLM_LARGE, 2_497_625),
    "lap/wavlm_large_lap_softmax_sum": System("lap_frozen", WAVLM_LARGE, _LAP_LARGE),
    "self_pretraining/ecapa": System("self_pretraining", None, _OWN_ECAPA),
    "self_pretraining/mhfa": System("self_pretraining", None, _MHFA_64),
    "self_pretraining/hubert_ls960_ecapa": System("self_pretraining", HUBERT, _OWN_ECAPA),
    "self_pretraining/hubert_ls960_mhfa": System("self_pretraining", HUBERT, _MHFA_64),
    "self_pretraining/wavlm_base_plus_ecapa": System("self_pretraining", WAVLM, _OWN_ECAPA),
    "self_pretraining/wavlm_base_plus_mhfa": System("self_pretraining", WAVLM, _MHFA_64),
    "self_pretraining/hubert_random_ecapa": System("random_init", HUBERT, _OWN_ECAPA),
    "self_pretraining/hubert_random_mhfa": System("random_init", HUBERT, _MHFA_64),
    "self_pretraining/wavlm_random_ecapa": System("random_init", WAVLM, _OWN_ECAPA),
    "self_pretraining/wavlm_random_mhfa": System("random_init", WAVLM, _MHFA_64),
    "self_pretraining/conformer_random_ecapa": System("random_init", CONFORMER, _OWN_ECAPA),
    "self_pretraining/conformer_random_mhfa": System("random_init", CONFORMER, _MHFA_64),
    "wespeaker/fbank_xvector": System("wespeaker", 0, 4_617_620),
    "wespeaker/fbank_ecapa_512": System("wespeaker", 0, 6_190_720),
    "wespeaker/fbank_ecapa_1024": System("wespeaker", 0, 14_657_088),
    "wespeaker/fbank_resnet34": System("wespeaker", 0, 6_634_336),
    "wespeaker/wavlm_large_ecapa_512": System("wespeaker_wavlm", WAVLM_LARGE, 8_607_385),
    "w2v_bert/adapter_mfa": System("w2v_bert", W2V_BERT, 6_160_640),
    "w2v_bert/lora_adapter_mfa": System("w2v_bert", W2V_BERT, 6_160_640),
}
_POOLING = {
    "wav2vec2_universal_pooling": System("universal_pooling", WAV2VEC2, 2_869_476),
    "hubert_universal_pooling": System("universal_pooling", HUBERT, 2_869_476),
    "wavlm_base_universal_pooling": System("universal_pooling", WAVLM, 2_869_476),
    "wav2vec2_l_tdnn_d3": System("universal_pooling", WAV2VEC2, 6_481_336),
    "wav2vec2_l_tdnn_ecapa": System("universal_pooling", WAV2VEC2, 5_717_272),
    "wav2vec2_layer_mean": System("layer_mean", WAV2VEC2_ONE_LAYER, 0),
    "wav2vec2_first_frame": System("first_frame", WAV2VEC2, 0),
    "fbank_xvector": System("pooling_xvector", 0, 4_617_620),
    "fbank_ecapa_512": System("pooling_ecapa", 0, 6_190_720),
}
_CNCELEB = (
    *(name for name in _VOXCELEB if name.startswith("w2v_bert/")),
    *(name for name in _VOXCELEB if _VOXCELEB[name].protocol == "lap"),
    *(f"self_pretraining/{name}" for name in ("ecapa", "mhfa")),
    *(f"self_pretraining/hubert_{start}_ecapa" for start in ("ls960", "random")),
    *(f"self_pretraining/hubert_{start}_mhfa" for start in ("ls960", "random")),
    *(f"wespeaker/fbank_{name}" for name in ("ecapa_512", "ecapa_1024", "resnet34")),
)

SYSTEMS: dict[str, System] = {
    **{f"voxceleb/{name}": system for name, system in _VOXCELEB.items()},
    **{f"cnceleb/{name}": _VOXCELEB[name] for name in _CNCELEB},
    **{
        f"{corpus}/universal_pooling/{name}": system
        for corpus in ("voxceleb", "vctk", "librispeech")
        for name, system in _POOLING.items()
    },
}
