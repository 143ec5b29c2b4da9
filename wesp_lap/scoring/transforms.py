"""Transforms of embeddings before PLDA, as a chain: ``mean-subtract | lda:dim=150 | length-norm``.

Steps stand between bars, options after a colon as ``name=value`` with commas between them. Each
step is fitted on the training embeddings as the steps before it leave them:

* ``mean-subtract``
* ``lda:dim=N[,floor=1e-6]`` linear discriminant analysis: subtracts the mean, makes the covariance
  within speakers the identity and keeps the N directions that tell speakers apart best
* ``whiten[:floor=0]`` subtracts the mean and makes the whole covariance the identity, by its
  symmetric inverse square root
* ``length-norm[:to=unit|sqrt-dim]`` scales every vector to length 1 (WeSpeaker's chain) or to the
  square root of its dimension (Kaldi's ivector-normalize-length)

``floor`` raises eigenvalues below that share of the largest one, as Kaldi does for LDA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import yaml

from wesp_lap.coerce import Section, parse_yaml
from wesp_lap.config import build
from wesp_lap.errors import ConfigError, DataError
from wesp_lap.scoring.class_statistics import ClassStatistics, collect, rank
from wesp_lap.scoring.embeddings import Embeddings


@dataclass(frozen=True)
class Affine:
    """x -> (x - offset) @ matrix.

    Attributes:
        name: the step it was made by.
        offset: (D_in,) float64.
        matrix: (D_in, D_out) float64; None for the identity.
        constant: (D_out,) float64 added at the end; None for nothing.
    """

    name: str
    offset: np.ndarray
    matrix: np.ndarray | None = None
    constant: np.ndarray | None = None

    @property
    def width(self) -> tuple[int, int]:
        """Dimensions that go in and come out."""
        return len(self.offset), len(self.offset) if self.matrix is None else self.matrix.shape[1]

    def apply(self, vectors: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """Transform (n, D_in) float64; ``keys`` are not used."""
        moved = vectors - self.offset
        if self.matrix is not None:
            moved = moved @ self.matrix
        return moved if self.constant is None else moved + self.constant


@dataclass(frozen=True)
class LengthNorm:
    """Scale every vector to length 1 ("unit") or to the root of its dimension ("sqrt-dim")."""

    to: Literal["unit", "sqrt-dim"] = "unit"

    def apply(self, vectors: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """Scale (n, D) float64; a vector without direction is a DataError with its key."""
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        if not norms.all():
            names = [keys[row] for row in np.flatnonzero(norms == 0).tolist()]
            raise DataError(
                f"length-norm: {len(names)} vectors are zero after the steps before it and have no "
                f"direction: {', '.join(names[:5])}\nThese embeddings equal the mean: take the "
                "mean over more utterances, or take them out."
            )
        length = 1.0 if self.to == "unit" else np.sqrt(vectors.shape[1])
        return vectors * (length / norms)[:, None]


@dataclass(frozen=True)
class _MeanSubtract:
    def fit(self, statistics: ClassStatistics) -> Affine:
        return Affine("mean-subtract", statistics.mean())


@dataclass(frozen=True)
class _Lda:
    dim: int
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim < 1 or not 0 <= self.floor < 1:
            raise ValueError(f"needs dim >= 1 and 0 <= floor < 1, got {self.dim}, {self.floor}")

    def fit(self, statistics: ClassStatistics) -> Affine:
        most = min(statistics.dim, statistics.classes - 1)
        if self.dim > most:
            raise DataError(
                f"lda:dim={self.dim}: {statistics.classes} speakers and {statistics.dim} "
                f"dimensions allow at most lda:dim={most}"
            )
        within = _inverse_root(statistics.within(), self.floor, "lda", statistics)
        _, directions = np.linalg.eigh(within.T @ statistics.between() @ within)
        return Affine("lda", statistics.mean(), within @ directions[:, ::-1][:, : self.dim])


@dataclass(frozen=True)
class _Whiten:
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor < 1:
            raise ValueError(f"needs 0 <= floor < 1, got {self.floor}")

    def fit(self, statistics: ClassStatistics) -> Affine:
        covariance = statistics.within() + statistics.between()
        matrix = _inverse_root(covariance, self.floor, "whiten", statistics)
        return Affine("whiten", statistics.mean(), matrix)


_STEPS = {"mean-subtract": _MeanSubtract, "lda": _Lda, "whiten": _Whiten, "length-norm": LengthNorm}


@dataclass(frozen=True)
class Chain:
    """Fitted steps, applied one after the other.

    Attributes:
        steps: in order; empty for no change.
    """

    steps: tuple[Affine | LengthNorm, ...] = ()

    def apply(self, vectors: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """Transform (n, D_in) float64 to (n, D_out); ``keys`` are for messages only."""
        for step in self.steps:
            vectors = step.apply(vectors, keys)
        return vectors

    @property
    def input_dim(self) -> int | None:
        """Dimensions that embeddings must have; None when every number will do."""
        return next((step.width[0] for step in self.steps if isinstance(step, Affine)), None)

    def with_mean(self, mean: np.ndarray) -> Chain:
        """Return the chain with another mean (D,) in its first step, if that subtracts the mean."""
        first = self.steps[0] if self.steps else None
        if not isinstance(first, Affine) or first.name != "mean-subtract":
            return self
        return Chain((Affine(first.name, np.asarray(mean, np.float64)), *self.steps[1:]))

    def to_record(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Return the steps as plain values, and their arrays by name."""
        record: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for number, step in enumerate(self.steps):
            if isinstance(step, LengthNorm):
                record.append({"name": "length-norm", "to": step.to})
                continue
            record.append({"name": step.name, "in": step.width[0], "out": step.width[1]})
            parts = {"offset": step.offset, "matrix": step.matrix, "constant": step.constant}
            arrays |= {f"{number}.{n}": part for n, part in parts.items() if part is not None}
        return record, arrays

    @classmethod
    def from_record(
        cls, record: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
    ) -> Chain:
        """Rebuild what ``to_record`` returned; KeyError or ValueError when it does not fit."""
        steps: list[Affine | LengthNorm] = []
        for number, entry in enumerate(record):
            if entry["name"] == "length-norm":
                steps.append(LengthNorm(entry["to"]))
                continue
            step = Affine(entry["name"], arrays[f"{number}.offset"], arrays.get(f"{number}.matrix"))
            if step.width != (entry["in"], entry["out"]):
                raise ValueError(f"step {number}: {step.width} instead of {entry}")
            steps.append(step)
        return cls(tuple(steps))


def parse_chain(text: str) -> list[_MeanSubtract | _Lda | _Whiten | LengthNorm]:
    """Read a chain as text; empty text and "none" are no step at all.

    Raises:
        ConfigError: unknown steps or options (with the nearest spelling), or values that do not
            fit.
    """
    if text.strip() in ("", "none"):
        return []
    steps = []
    for part in text.split("|"):
        name, _, words = part.strip().partition(":")
        options: dict[str, Any] = {}
        for word in words.split(",") if words else []:
            option, equals, value = (piece.strip() for piece in word.partition("="))
            if not (option and equals and value) or option in options:
                raise ConfigError(
                    f"chain: '{part.strip()}': expected name:option=value,option=value with every "
                    "option once, as in lda:dim=150"
                )
            try:
                options[option] = parse_yaml(value)
            except yaml.YAMLError as error:
                raise ConfigError(f"chain: '{part.strip()}': cannot read {value!r}") from error
        steps.append(build(_STEPS, Section(name.strip(), options), "chain"))
    return steps


def fit_chain(
    text: str, embeddings: Embeddings, codes: np.ndarray
) -> tuple[Chain, ClassStatistics]:
    """Fit a chain, and return it with the statistics of the transformed training vectors.

    The data is read once, and once more after every length normalisation.

    Args:
        text: the chain, as in the description of this module.
        embeddings: n training embeddings.
        codes: (n,) speaker numbers 0..K-1.

    Raises:
        ConfigError: the text is not a chain.
        DataError: too few speakers for LDA, a singular covariance, vectors without direction.
    """
    steps: tuple[Affine | LengthNorm, ...] = ()
    statistics = None
    for spec in parse_chain(text):
        if isinstance(spec, LengthNorm):
            steps, statistics = (*steps, spec), None
            continue
        if statistics is None:
            statistics = collect(embeddings, codes, Chain(steps).apply)
        step = spec.fit(statistics)
        steps, statistics = (*steps, step), statistics.mapped(step.offset, step.matrix)
    chain = Chain(steps)
    return chain, collect(embeddings, codes, chain.apply) if statistics is None else statistics


def _inverse_root(
    covariance: np.ndarray, floor: float, name: str, statistics: ClassStatistics
) -> np.ndarray:
    """Return the symmetric M with M C M = I, where eigenvalues of C below the floor are raised."""
    values, vectors = np.linalg.eigh(covariance)
    independent = rank(values)
    if values[-1] <= 0 or (floor == 0 and independent < statistics.dim):
        raise DataError(
            f"{name}: the covariance of {statistics.total} vectors in {statistics.dim} dimensions "
            f"is singular, of rank {independent}\nGive more utterances, reduce the dimension first "
            f"(lda:dim=N with N at most {max(independent, 1)}), or give {name}:floor=1e-4."
        )
    values = np.maximum(values, floor * values[-1])
    return (vectors / np.sqrt(values)) @ vectors.T
