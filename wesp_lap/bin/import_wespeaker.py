"""Turn a model trained with WeSpeaker into a speaker model directory."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.wespeaker import import_checkpoint


def main(checkpoint: str, config: str, out: str) -> None:
    """Map configuration and weights by name and write the model.

    Models on filterbanks: ResNet34, ECAPA_TDNN(_GLOB)_c512 and _c1024, XVEC.

    Args:
        checkpoint: avg_model.pt of the experiment.
        config: config.yaml of the experiment.
        out: Directory to write.
    """
    model = import_checkpoint(checkpoint, config)
    model.save_pretrained(out)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {model.backend_section.name}, {count:,} parameters, {model.embed_dim} numbers")


if __name__ == "__main__":
    run_command(main)
