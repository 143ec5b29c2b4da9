"""What a checkpoint costs: how long training stands still, and how long the write takes.

    python benchmarks/checkpoints.py [--model base] [--rounds 5] [--folder DIR]

The model with its classifier and Adam's state is saved again and again; between two saves nothing
is computed, so the next one never waits for the one before. "stall" is the time in which training
stands still, "write" that from then on until the checkpoint has its name. The first save makes the
buffers in host memory and is printed alone; of the others, medians. "processor" is the time of the
training thread that the stall needs on a machine without other programs. "synchronous" is a save
that is waited for, as torch.save and most toolkits do it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.amp import GradScaler

from wesp_lap.coerce import from_mapping
from wesp_lap.losses.margin_softmax import AamSoftmax
from wesp_lap.model import ModelSettings, SpeakerModel
from wesp_lap.training.checkpoint import CheckpointFolder, Moment
from wesp_lap.training.checkpoint_files import speaker_content

CLASSES = 3 * 5994
SIZES = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "conv_dim": [32] * 7,
        "num_conv_pos_embeddings": 32,
        "num_conv_pos_embedding_groups": 4,
    },
    "base": {},
}


def main() -> None:
    """Print one line per kind of save, then all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where to write; a temporary folder")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = make_parts(SIZES[options.model], device)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = CheckpointFolder(Path(name) / "checkpoints", keep=1)
        times = [save(folder, number, parts) for number in range(1, options.rounds + 2)]
        newest = folder.path(Moment(options.rounds + 1))
        size = sum(path.stat().st_size for path in newest.iterdir())
    stall, busy, write = map(statistics.median, zip(*times[1:], strict=True))
    first = times[0][0]
    count = sum(p.numel() for p in parts[0].parameters())
    print(f"{count / 1e6:.1f} M parameters, {size / 1e6:.0f} MB, {device.type}")
    print(f"stall, first save        {1000 * first:8.0f} ms")
    print(f"stall, later saves       {1000 * stall:8.0f} ms  ({1000 * busy:.0f} ms processor)")
    print(f"write in the background  {1000 * write:8.0f} ms  ({size / write / 1e6:.0f} MB/s)")
    print(f"synchronous              {1000 * (stall + write):8.0f} ms")
    row = {"bytes": size, "first_stall": first, "stall": stall, "busy": busy, "write": write}
    print(json.dumps(row))


def make_parts(config: dict, device: torch.device) -> tuple:
    """Return model, classifier, speakers, optimizer with a full state, and scaler."""
    settings = {
        "frontend": {"name": "transformer", "config": {"model_type": "wavlm", **config}},
        "backend": {"name": "lap_astp", "heads": 4},
    }
    model = SpeakerModel(from_mapping(ModelSettings, settings)).to(device)
    classifier = AamSoftmax(model.embed_dim, CLASSES).to(device)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-6)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    speakers = {f"id{number:05d}": number for number in range(CLASSES // 3)}
    return model, classifier, speakers, optimizer, GradScaler(device.type, enabled=False)


def save(folder: CheckpointFolder, number: int, parts: tuple) -> tuple[float, float, float]:
    """Return the seconds that training stands still, computes meanwhile, and the write takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start, computed = time.perf_counter(), time.thread_time()
    model, classifier, speakers, *rest = parts
    folder.save(Moment(number), speaker_content(model, classifier, speakers), *rest)
    copied, busy = time.perf_counter(), time.thread_time() - computed
    assert folder.wait()
    return copied - start, busy, time.perf_counter() - copied


if __name__ == "__main__":
    main()
