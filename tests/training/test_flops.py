"""Operations of a training step: by formula, beside torch's counter and published figures."""

import pytest
import torch
from helpers import tiny_frontend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wesp_lap.coerce import Section
from wesp_lap.frontends.lora import LoraSettings
from wesp_lap.frontends.transformer import TransformerFrontend
from wesp_lap.losses import LOSSES
from wesp_lap.model import ModelSettings, SpeakerModel
from wesp_lap.training.flops import KINDS, TrainedParts, forward_flops, training_flops
from wesp_lap.training.mfu import Utilisation, peak_flops, step_flops, trained_parts

SAMPLES = 16000
LORA = LoraSettings(rank=8)
MODES = {
    "full": {},
    "frozen": {"frozen": True},
    "above the convolutions": {"frozen_below": "convolutions"},
    "above the projection": {"frozen_below": "projection"},
    "above what is before the layers": {"frozen_below": 0},
    "above two layers": {"frozen_below": 2},
    "recomputed": {"gradient_checkpointing": True},
    "adapters": {"lora": LORA},
    "adapters, frozen": {"lora": LORA, "frozen": True},
    "adapters above a layer": {"lora": LORA, "frozen_below": 1},
    "adapters of a feed-forward part": {"lora": LoraSettings(8, targets=("output_dense",))},
    "adapters elsewhere, recomputed": {
        "lora": LoraSettings(8, targets=("intermediate_dense", "k_proj")),
        "gradient_checkpointing": True,
    },
    "fewer layers": {"keep_layers": 2},
    "with a frame of ones": {"cls_token": True},
}


def config_of(kind: str, **changes):
    # torch's counter takes the backward pass of a grouped convolution for that of a whole one.
    return tiny_frontend(kind, **{"num_conv_pos_embedding_groups": 1, **changes})


def counted(run) -> float:
    """Count forward and backward operations; attention by its products, as on any device."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = run()
        if loss.requires_grad:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "pre_norm"), [*dict.fromkeys(KINDS, False).items(), ("wavlm", 1)])
def test_the_formula_says_what_the_counter_counts(kind, mode, pre_norm):
    options = dict(MODES[mode])
    frozen = options.pop("frozen", False)
    config = config_of(
        kind, num_hidden_layers=3, do_stable_layer_norm=bool(pre_norm), hidden_size=64
    )
    front = TransformerFrontend(config=config, **options)
    front.freeze(frozen)
    front.train()
    flops = training_flops(front.model.config, SAMPLES, trained_parts(front))
    waves = torch.randn(2, SAMPLES)
    assert 2 * flops == pytest.approx(
        counted(lambda: torch.stack([state.sum() for state in front(waves)]).sum()), rel=0.01
    )


def published(**changes):
    from transformers import AutoConfig

    return AutoConfig.for_model("wavlm", **changes)


def test_published_models_take_what_was_counted_on_them():
    """GFLOP per second of audio, counted on the library's models with torch's counter."""
    base = published()
    large = published(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    for config, figures in ((base, (13.8, 14.1, 14.8, 19.4)), (large, (35.6, 36.5, 38.4))):
        for seconds, figure in zip((1, 3, 10, 60), figures, strict=False):
            found = forward_flops(config, 16000 * seconds) / seconds / 1e9
            assert found == pytest.approx(figure, abs=0.06)
    for config, full, above in ((base, 42.4, 32.6), (large, 109.6, 99.8)):
        fixed = TrainedParts(frozen_below="convolutions")
        assert training_flops(config, 48000) / 3e9 == pytest.approx(full, abs=0.06)
        assert training_flops(config, 48000, fixed) / 3e9 == pytest.approx(above, abs=0.06)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize(
    "kind", ["wavlm", "wav2vec2-conformer", "hubert-conformer", "wav2vec2-bert", "fbank"]
)
def test_the_whole_step_is_counted_and_nothing_changes(kind, frozen):
    section = {"name": "fbank"}
    if kind == "wav2vec2-bert":
        section = {"name": "transformer", "config": tiny_frontend(kind)}
    elif kind != "fbank":
        section = {"name": "transformer", "config": config_of(kind)}
    name = section.pop("name")
    model = SpeakerModel(ModelSettings(Section(name, section), Section("mhfa", {"embed_dim": 16})))
    model.frontend.freeze(frozen)
    model.train()
    classifier = LOSSES["aam"](16, 30)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with sdpa_kernel(SDPBackend.MATH):
        flops = step_flops(model, classifier, torch.device("cpu"), SAMPLES)
    assert model.training and model.frontend.training
    assert all(p.grad is None for p in (*model.parameters(), *classifier.parameters()))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    waves, labels = torch.randn(2, SAMPLES), torch.arange(2)
    step = counted(lambda: classifier(model(waves), labels).loss)
    assert 2 * flops(SAMPLES) == pytest.approx(step, rel=0.02)


@pytest.mark.parametrize(
    ("device", "precision", "tera"),
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A40", "fp16", 149.7),
        ("NVIDIA L40S", "bf16", 362.05),
        ("NVIDIA L40", "bf16", 181.05),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("cpu", "fp32", None),
    ],
)
def test_the_peak_of_a_device_goes_by_its_name(device, precision, tera):
    found = peak_flops(device, precision)
    assert found == (None if tera is None else pytest.approx(tera * 1e12))


def test_tf32_counts_where_it_is_allowed():
    assert peak_flops("NVIDIA H200", "fp32", tf32=True) == pytest.approx(494.7e12)


def test_a_share_of_the_peak():
    use = Utilisation(peak=1e12, flops=lambda samples: 1e6 * samples)
    work = use.flops(utterances=10, samples=16000)
    assert use.share(work, seconds=0.4, devices=2) == pytest.approx(0.2)
