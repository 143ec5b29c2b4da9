"""Extract speaker embeddings of a data directory."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.extraction import extract


def main(model: str, data: str, out: str, device: str | None = None, nj: int = 0) -> None:
    """Write OUT/xvector.{ark,scp,json}, one embedding per whole utterance.

    Args:
        model: Directory of a speaker model (config.json, model.safetensors).
        data: Kaldi data directory.
        out: Directory for the embeddings.
        device: cpu or cuda; a GPU when there is one by default.
        nj: Processes on a CPU; 0 means one per core.
    """
    print(f"{out}/xvector.scp: {extract(model, data, out, device, nj)} embeddings")


if __name__ == "__main__":
    run_command(main)
