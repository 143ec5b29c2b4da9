"""What options of backends must be; the user sees the text with the section's name in front."""

from __future__ import annotations


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_dropout(**probabilities: float) -> None:
    """Raise a ValueError for a probability of dropout that is not in [0, 1)."""
    for name, probability in probabilities.items():
        if not 0 <= probability < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {probability}")
