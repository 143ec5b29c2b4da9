"""Checks before a run: settings that load, weights at hand, GPUs and memory for them."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wesp_lap.config import phase_names
from wesp_lap.corpora.checks import Check, guarded, ok
from wesp_lap.corpora.machine import check_cores, check_shared_memory
from wesp_lap.files import PathLike

if TYPE_CHECKING:
    from wesp_lap.training.settings import TrainSettings

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_PREFETCHED = 2  # batches that a loader process holds ready
_SECONDS = 10


def check_settings(
    config: PathLike,
    phases: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    processes: int = 1,
    reach: Callable[[str], int | None] | None = None,
) -> list[Check]:
    """Check the settings of the phases, and whether the machine can run them.

    Args:
        config: YAML file.
        phases: its phases that will be trained; none for all.
        overrides: settings of the command line.
        processes: training processes of this machine.
        reach: asks the hub for a model and returns the code of its answer, None for no answer.
    """
    checks: list[Check] = []
    loaded: list[TrainSettings] = []

    def load() -> list[Check]:
        from wesp_lap.training.settings import load_settings  # brings torch, which is slow

        names: Sequence[str | None] = phases or phase_names(config) or [None]
        for phase in names:
            # Recipes give the shards when they are made.
            given = {"data.shards": "to be made", **(overrides or {})}
            loaded.append(load_settings(config, given, phase))
        return [ok("config", f"{config}: {', '.join(filter(None, names)) or 'loads'}")]

    checks += guarded("config", f"mend {config} or the options that change it", load)
    weights = {str(one.frontend.options.get("weights") or "") for one in loaded} - {""}
    for name in sorted(weights):
        checks += check_weights(name, reach or _ask_hub)
    if loaded:
        workers = max(one.data.num_workers for one in loaded)
        checks += check_cores(processes, workers)
        if workers:
            batch = max(one.data.batch_size * one.data.crop_samples for one in loaded)
            # Float32; the batch of a step is shared among the processes.
            checks += check_shared_memory(batch * 4 * workers * _PREFETCHED)
    return checks


def check_weights(name: str, reach: Callable[[str], int | None] | None = None) -> list[Check]:
    """Say whether the weights of a frontend are here, or can be fetched when training begins.

    Args:
        name: directory written by ``save_pretrained``, or name on the hub.
        reach: see ``check_settings``.
    """
    folder = Path(name)
    if folder.is_dir():
        missing = [] if (folder / "config.json").is_file() else ["config.json"]
        if not any((folder / one).is_file() for one in _WEIGHTS):
            missing.append(f"weights ({', '.join(_WEIGHTS[::2])})")
        if missing:
            text = f"{folder}: no {' and no '.join(missing)}"
            return [Check("weights", "error", text, f"{_place(folder.name)}, whole")]
        return [ok("weights", f"{folder}: a local directory")]
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        mend = "give a directory that is there, or a name on the hub such as microsoft/wavlm-large"
        return [Check("weights", "error", f"{name}: no such directory", mend)]
    if _is_cached(name):
        return [ok("weights", f"{name}: in the hub's cache")]
    if any(os.environ.get(one, "").upper() in ("1", "TRUE", "YES", "ON") for one in _OFFLINE):
        text = f"{name}: not in the hub's cache, and {' or '.join(_OFFLINE)} forbids to fetch it"
        return [Check("weights", "error", text, _place(name))]
    code = (reach or _ask_hub)(name)
    if code is None:
        text = f"{name}: not in the hub's cache, and the hub cannot be reached"
        return [Check("weights", "error", text, _place(name))]
    if code >= 400:
        text = f"{name}: not in the hub's cache, and the hub answers {code}"
        mend = "check the name, or log in for models that ask for it: hf auth login"
        return [Check("weights", "error", text, mend)]
    return [ok("weights", f"{name}: will be fetched from the hub when training begins")]


def _place(name: str) -> str:
    return (
        f"where there is network: hf download {name} --local-dir DIR; copy DIR here and give it as "
        "--frontend.weights DIR"
    )


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", *_WEIGHTS)
    there = [isinstance(try_to_load_from_cache(name, one), str) for one in files]
    return there[0] and any(there[1:])


def _ask_hub(name: str) -> int | None:
    """Ask for a model's configuration; return the code of the answer, None without one."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    request = urllib.request.Request(f"{hub}/{name}/resolve/main/config.json", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def check_gpus(processes: int) -> list[Check]:
    """Compare the GPUs that torch can use with the training processes of this machine."""
    if shutil.which("nvidia-smi") is None:  # torch is slow to ask
        text = "no NVIDIA GPU: training runs on the CPU, which takes weeks for large corpora"
        return [
            Check("gpu", "warning", text, "run on a machine with a GPU, or train a small model")
        ]
    import torch

    count = torch.cuda.device_count()
    text = f"{count} GPUs, {processes} training processes"
    if not count:
        mend = "install a torch that fits the driver (nvidia-smi shows it), see docs/install.md"
        return [
            Check("gpu", "error", f"nvidia-smi is here, but torch can use no GPU: {text}", mend)
        ]
    if processes > count:
        return [Check("gpu", "error", text, f"give --nproc {count}, or make more GPUs visible")]
    if processes < count:
        return [Check("gpu", "warning", text, f"give --nproc {count} to use all of them")]
    names = {torch.cuda.get_device_name(index) for index in range(count)}
    return [ok("gpu", f"{text}: {', '.join(sorted(names))}")]
