"""Checkpoints under WeSpeaker's names, against their networks written out by these names."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from wesp_lap.bin.import_wespeaker import main
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.model import SpeakerModel
from wesp_lap.wespeaker import import_checkpoint

BINS = 16


class Checkpoint(dict):
    """Random tensors under the names of torch modules."""

    def __init__(self):
        super().__init__()
        self.random = torch.Generator().manual_seed(0)

    def tensor(self, *shape):
        scale = 1 / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return torch.randn(*shape, generator=self.random) * scale

    def layer(self, name, *shape, bias=True):
        self[f"{name}.weight"] = self.tensor(*shape)
        if bias:
            self[f"{name}.bias"] = self.tensor(shape[0], 1)[:, 0]

    def norm(self, name, size, affine=True):
        if affine:
            self[f"{name}.weight"] = 1 + 0.1 * self.tensor(size, 1)[:, 0]
            self[f"{name}.bias"] = 0.1 * self.tensor(size, 1)[:, 0]
        self[f"{name}.running_mean"] = 0.1 * self.tensor(size, 1)[:, 0]
        self[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=self.random)
        # WeSpeaker's average of checkpoints makes a float of the counter.
        self[f"{name}.num_batches_tracked"] = torch.tensor(12.5)

    def apply_layer(self, name, x, **options):
        weight, bias = self[f"{name}.weight"], self.get(f"{name}.bias")
        operation = {2: F.linear, 3: F.conv1d, 4: F.conv2d}[weight.dim()]
        return operation(x, weight, bias, **options)

    def apply_norm(self, name, x):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *[self.get(f"{name}.{part}") for part in names])


def statistics(x):
    return torch.cat([x.mean(-1).flatten(1), (x.var(-1) + 1e-7).sqrt().flatten(1)], dim=1)


def xvec():
    """frame_1 to frame_5, seg_1, seg_bn_1, seg_2; norms without scale and offset."""
    tensors = Checkpoint()
    widths = [BINS, 24, 24, 24, 24, 40]
    for number, size in enumerate((5, 3, 3, 1, 1), 1):
        before, after = widths[number - 1 : number + 1]
        tensors.layer(f"frame_{number}.conv_1d", after, before, size)
        tensors.norm(f"frame_{number}.bn", after, affine=False)
    tensors.layer("seg_1", 12, 80)
    tensors.norm("seg_bn_1", 12, affine=False)
    tensors.layer("seg_2", 12, 12)

    def forward(x):
        x = x.transpose(1, 2)
        for number, dilation in enumerate((1, 2, 3, 1, 1), 1):
            x = tensors.apply_layer(f"frame_{number}.conv_1d", x, dilation=dilation).relu()
            x = tensors.apply_norm(f"frame_{number}.bn", x)
        x = tensors.apply_layer("seg_1", statistics(x)).relu()
        return tensors.apply_layer("seg_2", tensors.apply_norm("seg_bn_1", x))

    return tensors, forward, {"hid_dim": 24, "stats_dim": 40, "embed_dim": 12}


def resnet34(two_emb_layer=False):
    """conv1, bn1, layer1.0 to layer4.2 with conv1, bn1, conv2, bn2 and shortcut, seg_1."""
    tensors = Checkpoint()
    tensors.layer("conv1", 32, 1, 3, 3, bias=False)
    tensors.norm("bn1", 32)
    width, blocks = 32, []
    for stage, count in enumerate((3, 4, 6, 3)):
        for index in range(count):
            name, wide = f"layer{stage + 1}.{index}", 32 * 2**stage
            stride = 2 if stage and not index else 1
            tensors.layer(f"{name}.conv1", wide, width, 3, 3, bias=False)
            tensors.layer(f"{name}.conv2", wide, wide, 3, 3, bias=False)
            tensors.norm(f"{name}.bn1", wide)
            tensors.norm(f"{name}.bn2", wide)
            if stride == 2:
                tensors.layer(f"{name}.shortcut.0", wide, width, 1, 1, bias=False)
                tensors.norm(f"{name}.shortcut.1", wide)
            blocks.append((name, stride))
            width = wide
    tensors.layer("seg_1", 12, BINS // 8 * 256 * 2)
    if two_emb_layer:
        tensors.norm("seg_bn_1", 12, affine=False)
        tensors.layer("seg_2", 12, 12)

    def forward(x):
        x = tensors.apply_layer("conv1", x.transpose(1, 2).unsqueeze(1), padding=1)
        x = tensors.apply_norm("bn1", x).relu()
        for name, stride in blocks:
            y = tensors.apply_layer(f"{name}.conv1", x, padding=1, stride=stride)
            y = tensors.apply_norm(f"{name}.bn1", y).relu()
            y = tensors.apply_layer(f"{name}.conv2", y, padding=1)
            y = tensors.apply_norm(f"{name}.bn2", y)
            if stride == 2:
                x = tensors.apply_layer(f"{name}.shortcut.0", x, stride=2)
                x = tensors.apply_norm(f"{name}.shortcut.1", x)
            x = (x + y).relu()
        x = tensors.apply_layer("seg_1", statistics(x))
        if not two_emb_layer:
            return x
        return tensors.apply_layer("seg_2", tensors.apply_norm("seg_bn_1", x.relu()))

    return tensors, forward, {"embed_dim": 12, "two_emb_layer": two_emb_layer}


def ecapa(channels, context, emb_bn=False):
    """layer1, layer2 to layer4 with se_res2block.0 to .3, conv, pool, bn, linear, bn2."""
    tensors = Checkpoint()
    part = channels // 8

    def conv_norm(conv, norm, *shape):
        tensors.layer(conv, *shape)
        tensors.norm(norm, shape[0])

    conv_norm("layer1.conv", "layer1.bn", channels, BINS, 5)
    for name in (f"layer{i}.se_res2block" for i in (2, 3, 4)):
        for place in (0, 2):
            conv_norm(f"{name}.{place}.conv", f"{name}.{place}.bn", channels, channels, 1)
        for index in range(7):
            conv_norm(f"{name}.1.convs.{index}", f"{name}.1.bns.{index}", part, part, 3)
        tensors.layer(f"{name}.3.linear1", 128, channels)
        tensors.layer(f"{name}.3.linear2", channels, 128)
    tensors.layer("conv", 1536, 3 * channels, 1)
    tensors.layer("pool.linear1", 128, 3 * 1536 if context else 1536, 1)
    tensors.layer("pool.linear2", 1536, 128, 1)
    tensors.norm("bn", 3072)
    tensors.layer("linear", 12, 3072)
    if emb_bn:
        tensors.norm("bn2", 12)

    def conv_relu_norm(conv, norm, x, **options):
        return tensors.apply_norm(norm, tensors.apply_layer(conv, x, **options).relu())

    def block(number, x):
        name = f"layer{number}.se_res2block"
        *parts, last = conv_relu_norm(f"{name}.0.conv", f"{name}.0.bn", x).split(part, dim=1)
        done, y = [], 0
        for index, one in enumerate(parts):
            conv, norm = f"{name}.1.convs.{index}", f"{name}.1.bns.{index}"
            y = conv_relu_norm(conv, norm, y + one, padding=number, dilation=number)
            done.append(y)
        y = conv_relu_norm(f"{name}.2.conv", f"{name}.2.bn", torch.cat([*done, last], dim=1))
        scale = tensors.apply_layer(f"{name}.3.linear1", y.mean(2)).relu()
        return x + y * tensors.apply_layer(f"{name}.3.linear2", scale).sigmoid().unsqueeze(2)

    def forward(x):
        outputs = [conv_relu_norm("layer1.conv", "layer1.bn", x.transpose(1, 2), padding=2)]
        for number in (2, 3, 4):
            outputs.append(block(number, outputs[-1]))
        x = tensors.apply_layer("conv", torch.cat(outputs[1:], dim=1)).relu()
        seen = x
        if context:
            around = statistics(x).unsqueeze(2).expand(-1, -1, x.shape[2])
            seen = torch.cat([x, around], dim=1)
        weights = tensors.apply_layer("pool.linear1", seen).tanh()
        weights = tensors.apply_layer("pool.linear2", weights).softmax(2)
        mean = (weights * x).sum(2)
        deviation = ((weights * x**2).sum(2) - mean**2).clamp(min=1e-7).sqrt()
        pooled = tensors.apply_norm("bn", torch.cat([mean, deviation], dim=1))
        embedding = tensors.apply_layer("linear", pooled)
        return tensors.apply_norm("bn2", embedding) if emb_bn else embedding

    return tensors, forward, {"embed_dim": 12, "emb_bn": emb_bn}


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
        assert (options["window"], options["dither"]) == ("hamming", 1.0)
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
