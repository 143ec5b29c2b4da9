"""Models trained with WeSpeaker as speaker models: configuration and weights are mapped by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wesp_lap.coerce import Section, check_names, coerce, from_mapping
from wesp_lap.config import load_yaml
from wesp_lap.errors import ConfigError, DataError, raise_problems
from wesp_lap.files import PathLike
from wesp_lap.model import SAMPLE_RATE, ModelSettings, SpeakerModel

_CLASSIFIER = "projection."
# The norms of WeSpeaker's x-vector have no scale and offset; ours start as 1 and 0.
_MAY_LACK = re.compile(r".*\.num_batches_tracked|layers\.\d\.norm\.(weight|bias)")


@dataclass(frozen=True)
class _ResNetArguments:
    """``model_args`` of ResNet34."""

    feat_dim: int
    embed_dim: int
    pooling_func: Literal["TSTP"] = "TSTP"
    two_emb_layer: bool = False

    def options(self) -> dict[str, Any]:
        return {"embed_dim": self.embed_dim, "two_embed_layer": self.two_emb_layer}


@dataclass(frozen=True)
class _EcapaArguments:
    """``model_args`` of ECAPA-TDNN."""

    feat_dim: int
    embed_dim: int
    pooling_func: Literal["ASTP"] = "ASTP"
    emb_bn: bool = False

    def options(self) -> dict[str, Any]:
        return {"embed_dim": self.embed_dim, "embedding_norm": self.emb_bn}


@dataclass(frozen=True)
class _XVectorArguments:
    """``model_args`` of XVEC."""

    feat_dim: int = 40
    hid_dim: int = 512
    stats_dim: int = 1500
    embed_dim: int = 512
    pooling_func: Literal["TSTP"] = "TSTP"

    def options(self) -> dict[str, Any]:
        return {
            "channels": self.hid_dim,
            "pooled_dim": self.stats_dim,
            "embed_dim": self.embed_dim,
            "eval_layer": "lin2",
            "padded": False,
            "hidden_norm": True,
        }


def _resnet_modules() -> Iterator[tuple[str, str]]:
    yield from (("input", "conv1"), ("input_norm", "bn1"), ("embedding", "seg_1"))
    yield from (("second.1", "seg_bn_1"), ("second.2", "seg_2"))
    places = [(stage, i) for stage, blocks in enumerate((3, 4, 6, 3), 1) for i in range(blocks)]
    for number, (stage, index) in enumerate(places):
        ours, theirs = f"blocks.{number}", f"layer{stage}.{index}"
        for name in ("conv1", "conv2", "shortcut.0", "shortcut.1"):
            yield f"{ours}.{name}", f"{theirs}.{name}"
        for name in "12":
            yield f"{ours}.norm{name}", f"{theirs}.bn{name}"


def _ecapa_modules() -> Iterator[tuple[str, str]]:
    yield from (("input.conv", "layer1.conv"), ("input.norm", "layer1.bn"), ("output", "conv"))
    yield from (("time_pool.squeeze", "pool.linear1"), ("time_pool.score", "pool.linear2"))
    yield from (("statistics_norm", "bn"), ("embedding", "linear"), ("embedding_norm", "bn2"))
    for number in range(3):
        ours, theirs = f"blocks.{number}", f"layer{number + 2}.se_res2block"
        for name, place in (("enter", 0), ("leave", 2)):
            yield f"{ours}.{name}.conv", f"{theirs}.{place}.conv"
            yield f"{ours}.{name}.norm", f"{theirs}.{place}.bn"
        for part in range(7):
            yield f"{ours}.res2.convs.{part}.conv", f"{theirs}.1.convs.{part}"
            yield f"{ours}.res2.convs.{part}.norm", f"{theirs}.1.bns.{part}"
        yield f"{ours}.squeeze", f"{theirs}.3.linear1"
        yield f"{ours}.excite", f"{theirs}.3.linear2"


def _xvector_modules() -> Iterator[tuple[str, str]]:
    yield from (("lin1", "seg_1"), ("hidden_norm", "seg_bn_1"), ("lin2", "seg_2"))
    for number in range(5):
        yield f"layers.{number}.conv", f"frame_{number + 1}.conv_1d"
        yield f"layers.{number}.norm", f"frame_{number + 1}.bn"


class _Model(NamedTuple):
    backend: str
    arguments: type
    modules: Callable[[], Iterator[tuple[str, str]]]
    options: Mapping[str, Any]


def _ecapa(channels: int, global_context: bool) -> _Model:
    options = {"channels": channels, "global_context": global_context}
    return _Model("ecapa_tdnn", _EcapaArguments, _ecapa_modules, options)


_MODELS: Mapping[str, _Model] = {
    "ECAPA_TDNN_GLOB_c1024": _ecapa(1024, True),
    "ECAPA_TDNN_GLOB_c512": _ecapa(512, True),
    "ECAPA_TDNN_c1024": _ecapa(1024, False),
    "ECAPA_TDNN_c512": _ecapa(512, False),
    "ResNet34": _Model("resnet34", _ResNetArguments, _resnet_modules, {}),
    "XVEC": _Model("xvector", _XVectorArguments, _xvector_modules, {}),
}


def import_checkpoint(checkpoint: PathLike, config: PathLike) -> SpeakerModel:
    """Make a speaker model of what WeSpeaker has trained on filterbanks.

    The classifier (``projection.*``) is left out. The embedding is the one that WeSpeaker extracts.

    Args:
        checkpoint: ``avg_model.pt`` or another state dict of WeSpeaker.
        config: The ``config.yaml`` beside it.

    Raises:
        ConfigError: the configuration names a model, an option or features that have no
            counterpart here.
        DataError: the checkpoint cannot be read without running code from it, or its tensors
            are not those of the model; all names are given.
    """
    tree = load_yaml(config)
    where = str(config)
    check_names([str(tree.get("model"))], _MODELS, f"{where}: model")
    kind = _MODELS[tree["model"]]
    arguments: Any = from_mapping(
        kind.arguments, tree.get("model_args", {}), f"{where}: model_args"
    )
    dataset = coerce(tree.get("dataset_args", {}), dict, f"{where}: dataset_args")
    frontend = _fbank(dataset, arguments.feat_dim, f"{where}: dataset_args")
    backend = Section(kind.backend, {**kind.options, **arguments.options()})
    theirs = _read(Path(checkpoint))
    model = SpeakerModel(ModelSettings(frontend, backend))
    own = model.backend.state_dict()
    model.backend.load_state_dict(_renamed(own, theirs, dict(kind.modules()), checkpoint))
    return model.eval()


@dataclass(frozen=True)
class _FbankArguments:
    """``fbank_args`` of WeSpeaker; the dither is one of training, and not taken over."""

    num_mel_bins: int = 80
    frame_length: float = 25
    frame_shift: float = 10
    dither: float = 1.0


@dataclass(frozen=True)
class _CmvnArguments:
    """``cmvn_args`` of WeSpeaker."""

    norm_mean: bool = True
    norm_var: bool = False


def _fbank(dataset: Mapping[str, Any], feat_dim: int, where: str) -> Section:
    """Return the frontend that computes the features of ``dataset_args``."""
    if dataset.get("frontend", "fbank") != "fbank":
        raise ConfigError(
            f"{where}.frontend: '{dataset['frontend']}' cannot be imported, only fbank; a system "
            "on a pre-trained model is trained here from that model's own weights"
        )
    fbank = from_mapping(_FbankArguments, dataset.get("fbank_args", {}), f"{where}.fbank_args")
    cmvn = from_mapping(_CmvnArguments, dataset.get("cmvn_args", {}), f"{where}.cmvn_args")
    normalised = dataset.get("cmvn", True)
    rate = dataset.get("resample_rate", SAMPLE_RATE)
    faults = []
    if rate != SAMPLE_RATE:
        faults.append(f"resample_rate is {rate}, waveforms here have {SAMPLE_RATE} Hz")
    if fbank.num_mel_bins != feat_dim:
        faults.append(f"{fbank.num_mel_bins} mel bins do not fit model_args.feat_dim {feat_dim}")
    if (fbank.frame_length, fbank.frame_shift) != (25, 10):
        faults.append("fbank_args other than 25 ms every 10 ms have no counterpart here")
    if normalised and cmvn.norm_var:
        faults.append("cmvn_args.norm_var (variance normalisation) has no counterpart here")
    if faults:
        raise ConfigError(f"{where}: {'; '.join(faults)}")
    options = {
        "num_mel_bins": feat_dim,
        "window": "hamming",
        "cmn": bool(normalised and cmvn.norm_mean),
    }
    return Section("fbank", options)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a state dict, from which no code is run."""
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file lets the unpickler fail in many ways
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"{path}: not a file of tensors alone, or damaged ({reason}); a TorchScript file "
            "(final.zip) cannot be imported, take avg_model.pt. If the file holds other objects "
            "and you trust it, save its tensors where WeSpeaker is installed: "
            "torch.save({k: v for k, v in model.state_dict().items()}, 'tensors.pt')"
        ) from error
    tree = tree.get("state_dict", tree) if isinstance(tree, Mapping) else tree
    if not isinstance(tree, Mapping) or not all(isinstance(v, Tensor) for v in tree.values()):
        raise DataError(
            f"{path}: expected tensors by name, as in WeSpeaker's avg_model.pt; a checkpoint with "
            "an optimizer or several models is no such file"
        )
    return {str(name): tensor for name, tensor in tree.items()}


def _renamed(
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    modules: Mapping[str, str],
    source: PathLike,
) -> dict[str, Tensor]:
    """Return ``theirs`` under our names; what is missing, spare or does not fit is one error."""
    result: dict[str, Tensor] = {}
    problems: list[str] = []
    spare = {name for name in theirs if not name.startswith(_CLASSIFIER)}
    for name, tensor in own.items():
        module, _, kind = name.rpartition(".")
        wanted = f"{modules[module]}.{kind}"
        spare.discard(wanted)
        found = theirs.get(wanted, tensor if _MAY_LACK.fullmatch(name) else None)
        if found is None:
            problems.append(f"{wanted}: missing")
        elif found.shape != tensor.shape:
            shapes = f"{tuple(found.shape)}, expected {tuple(tensor.shape)}"
            problems.append(f"{wanted}: of shape {shapes}")
        elif not found.isfinite().all():
            problems.append(f"{wanted}: holds NaN or infinite values")
        else:
            result[name] = found.to(tensor.dtype)
    problems += [f"{name}: no counterpart in the model" for name in sorted(spare)]
    raise_problems(
        f"{source}: does not fit the model of the configuration",
        problems,
        "Take the config.yaml of the experiment that the checkpoint is from.",
        limit=len(problems),
    )
    return result
