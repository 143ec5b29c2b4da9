"""Gather noises and room impulse responses into one memory-mapped bank."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.data.noise_bank import make_noise_bank


def main(out: str, musan: str | None = None, rirs: str | None = None, seed: int = 42) -> None:
    """Build a noise bank; one made from the same files is kept.

    Args:
        out: Directory of the bank.
        musan: Directory laid out as MUSAN: noise/ music/ speech/.
        rirs: Directory laid out as RIRS_NOISES.
        seed: Seed of the channel that is taken from recordings with several.
    """
    counts = make_noise_bank(out, musan, rirs, seed)
    print(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    run_command(main)
