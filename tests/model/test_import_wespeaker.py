"""Import of checkpoints under WeSpeaker's names, against their networks written out."""

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from wespeaker_networks import BINS, ecapa, resnet34, xvec

from wesp_lap.bin.import_wespeaker import main
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.model import SpeakerModel
from wesp_lap.wespeaker import import_checkpoint

MODELS = {
    "XVEC": xvec,
    "ResNet34": resnet34,
    "ResNet34 with two embedding layers": lambda: resnet34(two_emb_layer=True),
    "ECAPA_TDNN_c512": lambda: ecapa(512, context=False),
    "ECAPA_TDNN_GLOB_c512": lambda: ecapa(512, context=True, emb_bn=True),
    "ECAPA_TDNN_c1024": lambda: ecapa(1024, context=False),
    "ECAPA_TDNN_GLOB_c1024": lambda: ecapa(1024, context=True),
}


def write(folder, name, tensors, arguments, **dataset):
    """Write avg_model.pt and config.yaml with what WeSpeaker writes beside what matters."""
    config = {
        "exp_dir": "exp/model",
        "gpus": [0, 1],
        "dataset_args": {
            "aug_prob": 0.6,
            "fbank_args": {
                "dither": 1.0,
                "frame_length": 25,
                "frame_shift": 10,
                "num_mel_bins": BINS,
            },
            "num_frms": 200,
            "resample_rate": 16000,
            "speed_perturb": True,
            **dataset,
        },
        "model": name,
        "model_args": {"feat_dim": BINS, **arguments},
        "model_init": None,
        "projection_args": {"project_type": "arc_margin", "scale": 32.0},
    }
    paths = folder / "avg_model.pt", folder / "config.yaml"
    torch.save(dict(tensors), paths[0])
    paths[1].write_text(yaml.dump(config))
    return paths


@pytest.mark.parametrize("kind", MODELS)
def test_imported_models_give_the_embeddings_of_wespeaker(kind, tmp_path, capsys):
    tensors, forward, arguments = MODELS[kind]()
    classifier = {"projection.weight": torch.randn(30, 12)}
    arguments = {key: value for key, value in arguments.items() if value is not False}
    checkpoint, config = write(tmp_path, kind.split()[0], tensors | classifier, arguments)
    main(str(checkpoint), str(config), str(tmp_path / "model"))
    assert "12 numbers" in capsys.readouterr().out
    model = SpeakerModel.from_pretrained(tmp_path / "model")
    waves = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1)) / 10
    with torch.inference_mode():
        (features,) = model.frontend(waves)
        expected = forward(features)
    torch.testing.assert_close(model.embed(waves), expected, atol=1e-5, rtol=1e-4)


def test_features_are_those_of_the_configuration(tmp_path):
    tensors, _, arguments = xvec()
    waves = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1)) / 10
    features = []
    for dataset in ({}, {"cmvn": False}, {"cmvn_args": {"norm_mean": False}}):
        model = import_checkpoint(*write(tmp_path, "XVEC", tensors, arguments, **dataset))
        options = model.settings().frontend.options
        assert options["window"] == "hamming"
        features += model.frontend(waves)
    assert features[0].shape == (1, 48, BINS)
    mean = features[1].mean(1, keepdim=True)
    assert mean.min() > 5
    torch.testing.assert_close(features[0], features[1] - mean)
    torch.testing.assert_close(features[1], features[2])


def test_a_checkpoint_inside_a_training_state_is_found(tmp_path):
    tensors, _, arguments = xvec()
    checkpoint, config = write(tmp_path, "XVEC", tensors, arguments)
    torch.save({"state_dict": dict(tensors), "epoch": 3}, checkpoint)
    model = import_checkpoint(checkpoint, config)
    torch.testing.assert_close(model.backend.lin2.weight, tensors["seg_2.weight"])


def test_all_tensors_that_do_not_fit_are_named(tmp_path):
    tensors, _, arguments = xvec()
    for number in range(30):
        tensors[f"extra.{number}.weight"] = torch.zeros(1)
    del tensors["seg_2.bias"], tensors["frame_3.bn.running_var"]
    tensors["seg_1.weight"] = torch.zeros(12, 40)
    tensors["frame_1.conv_1d.bias"][0] = float("nan")
    with pytest.raises(DataError) as caught:
        import_checkpoint(*write(tmp_path, "XVEC", tensors, arguments))
    message = str(caught.value)
    assert "seg_2.bias: missing" in message
    assert "frame_3.bn.running_var: missing" in message
    assert "seg_1.weight: of shape (12, 40), expected (12, 80)" in message
    assert "frame_1.conv_1d.bias: holds NaN" in message
    assert all(f"extra.{number}.weight: no counterpart" in message for number in range(30))
    assert "Take the config.yaml of the experiment" in message


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_of_a_checkpoint_runs(tmp_path):
    tensors, _, arguments = xvec()
    checkpoint, config = write(tmp_path, "XVEC", tensors, arguments)
    torch.save({**tensors, "more": Touch(tmp_path / "made")}, checkpoint)
    with pytest.raises(DataError, match=r"not a file of tensors alone.*torch\.save"):
        import_checkpoint(checkpoint, config)
    assert not (tmp_path / "made").exists()
    checkpoint.write_bytes(pickle.dumps(Touch(tmp_path / "made")))
    with pytest.raises(DataError, match="not a file of tensors alone"):
        import_checkpoint(checkpoint, config)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_damaged_checkpoints_are_named(content, tmp_path):
    checkpoint, config = write(tmp_path, "XVEC", *xvec()[::2])
    checkpoint.write_bytes(content)
    with pytest.raises(DataError, match=r"avg_model\.pt: not a file of tensors alone"):
        import_checkpoint(checkpoint, config)


def test_what_is_no_state_dict_is_refused(tmp_path):
    checkpoint, config = write(tmp_path, "XVEC", *xvec()[::2])
    torch.save({"model": {"a": torch.zeros(1)}, "optimizer": {"lr": 1.0}}, checkpoint)
    with pytest.raises(DataError, match="expected tensors by name"):
        import_checkpoint(checkpoint, config)
    checkpoint.unlink()
    with pytest.raises(DataError, match="No such file"):
        import_checkpoint(checkpoint, config)


@pytest.mark.filterwarnings("ignore:.*TorchScript archive")
def test_torchscript_archives_are_refused(tmp_path):
    checkpoint, config = write(tmp_path, "XVEC", *xvec()[::2])
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(checkpoint))
    with pytest.raises(DataError, match=r"TorchScript file \(final.zip\) cannot be imported"):
        import_checkpoint(checkpoint, config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "ResNet43"}, r"model: unknown 'ResNet43' \(did you mean 'ResNet34'\?\); known"),
        ({"model_args": {"embed_dim": 12}}, r"model_args: missing .*feat_dim"),
        (
            {"model_args": {"feat_dim": BINS, "embed_dim": 12, "pooling_func": "MQMHASTP"}},
            "pooling_func: 'MQMHASTP' is not one of TSTP",
        ),
        (
            {"model_args": {"feat_dim": BINS, "embed_dim": 12, "m_channels": 64}},
            "unknown 'm_channels'",
        ),
        ({"dataset_args": {"frontend": "s3prl"}}, "dataset_args.frontend: 's3prl' cannot be"),
        ({"dataset_args": {"resample_rate": 8000}}, "resample_rate is 8000"),
        ({"dataset_args": {"cmvn_args": {"norm_var": True}}}, "norm_var .variance normalisation"),
        ({"dataset_args": {"fbank_args": {"num_mel_bins": 40}}}, "40 mel bins do not fit .* 16"),
        (
            {"dataset_args": {"fbank_args": {"num_mel_bins": BINS, "frame_length": 32}}},
            "fbank_args other than 25 ms every 10 ms",
        ),
        ({"dataset_args": {"fbank_args": {"n_mels": 16}}}, "fbank_args: unknown 'n_mels'"),
        ({"dataset_args": None}, "dataset_args: expected a mapping"),
    ],
)
def test_what_has_no_counterpart_is_refused(changes, message, tmp_path):
    checkpoint, config = write(tmp_path, "ResNet34", {}, {"embed_dim": 12})
    config.write_text(yaml.dump({**yaml.safe_load(config.read_text()), **changes}))
    with pytest.raises(ConfigError, match=message):
        import_checkpoint(checkpoint, config)
