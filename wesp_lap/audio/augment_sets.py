"""What the augmentation sets consist of: kinds of distortion, levels, numbers and spans.

Source: docs/methods.md, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WHOLE = ((1.0, 1.0),)
WHOLE_HALF_THIRD = ((1.0, 1.0), (0.4, 0.6), (0.2, 0.4))
MAX_NOISES = 9


@dataclass(frozen=True)
class Mixture:
    """Recordings that are added together, each at its own level.

    Args:
        categories: Where a recording is drawn from; of several categories, from all alike.
        count: Fewest and most recordings.
    """

    categories: tuple[str, ...]
    count: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Kind:
    """One distortion of a set.

    Args:
        response: Category of the room response to convolve with.
        mixtures: What is added, one after the other: the level of the second is measured on the
            wave that holds the first.
        spans: Classes of the share of the crop that a recording covers, equally likely; the share
            is uniform within its class.
    """

    response: str | None = None
    mixtures: tuple[Mixture, ...] = ()
    spans: tuple[tuple[float, float], ...] = WHOLE


@dataclass(frozen=True)
class AugmentSet:
    """A published way to augment.

    Args:
        kinds: Distortions, equally likely.
        snr: Range of the signal-to-noise ratio in dB by category.
        speed_shares: Shares of SPEED_FACTORS under speed perturbation.
        cut: Draw among pieces of 5 s every 3 s instead of among whole recordings.
        normalise_peak: Divide a distorted crop by its largest magnitude.
    """

    kinds: tuple[Kind, ...]
    snr: Mapping[str, tuple[float, float]]
    speed_shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    cut: bool = True
    normalise_peak: bool = False

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the noise bank that the set draws from."""
        names = [kind.response for kind in self.kinds if kind.response is not None]
        for kind in self.kinds:
            names += [name for mixture in kind.mixtures for name in mixture.categories]
        return tuple(sorted(set(names)))


_NOISE, _MUSIC = Mixture(("noise",)), Mixture(("music",))
_VOXCELEB_SNR = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}

SETS: Mapping[str, AugmentSet] = {
    "lap": AugmentSet(
        kinds=(
            Kind(response="rir"),
            Kind(mixtures=(_NOISE,), spans=WHOLE_HALF_THIRD),
            Kind(mixtures=(_MUSIC,), spans=WHOLE_HALF_THIRD),
            Kind(mixtures=(Mixture(("speech",), (4, 7)),), spans=WHOLE_HALF_THIRD),
            Kind(mixtures=(Mixture(("speech",), (4, 7)), _MUSIC)),  # television
        ),
        snr=_VOXCELEB_SNR,
    ),
    "wespeaker": AugmentSet(
        kinds=(Kind(response="rir"), Kind(mixtures=(Mixture(("noise", "music", "speech")),))),
        snr={"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (10.0, 30.0)},
        speed_shares=(1 / 3, 1 / 3, 1 / 3),
        cut=False,
        normalise_peak=True,
    ),
    "mhfa": AugmentSet(
        kinds=(
            Kind(),
            Kind(response="simulated_rir"),
            Kind(mixtures=(_MUSIC,)),
            Kind(mixtures=(Mixture(("speech",), (3, 8)),)),
            Kind(mixtures=(_NOISE,)),
            Kind(mixtures=(Mixture(("speech",), (3, 8)), _MUSIC)),
        ),
        snr=_VOXCELEB_SNR,
    ),
}
