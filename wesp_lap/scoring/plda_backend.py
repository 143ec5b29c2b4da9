"""A PLDA back-end: transforms, model and rules as one thing that is fitted, saved and scored with.

On disk it is a directory: ``plda.json`` says what it is and how it was made, and holds the digest
of ``plda.safetensors``, which has the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wesp_lap.errors import DataError, raise_problems
from wesp_lap.files import PathLike, atomic_write, read_json, write_json
from wesp_lap.kaldi.trials import Trials
from wesp_lap.scoring.class_statistics import collect, finite_block, speaker_codes
from wesp_lap.scoring.cosine import check_widths
from wesp_lap.scoring.embeddings import Embeddings
from wesp_lap.scoring.plda import AdaptMethod, Plda, Start, adapt, pair_llrs, train_plda
from wesp_lap.scoring.transforms import Chain, fit_chain

EnrollCount = Literal["book", "one"]

DEFAULT_CHAIN = "mean-subtract | length-norm"
RECORD_FILE = "plda.json"
ARRAYS_FILE = "plda.safetensors"
_FORMAT = "wesp_lap plda 1"
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class PldaBackend:
    """Embeddings in, log-likelihood ratios out.

    Attributes:
        chain: transforms of the embeddings.
        plda: the model of what comes out of them.
        average_raw: a model of several enrolment utterances is the mean of their embeddings before
            the chain (Kaldi's recipes); otherwise of what the chain and the projection make of
            each.
        normalize_length: scale projected vectors to the length that the model expects of them, as
            ivector-plda-scoring does.
        record: plain values that say how the back-end was made.
    """

    chain: Chain
    plda: Plda
    average_raw: bool = False
    normalize_length: bool = False
    record: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: PathLike) -> None:
        """Write the directory; the record comes last, so that a broken-off run leaves none."""
        from safetensors.numpy import save

        steps, arrays = self.chain.to_record()
        plda = {"mean": self.plda.mean, "transform": self.plda.transform, "psi": self.plda.psi}
        tensors = {f"chain.{name}": array for name, array in arrays.items()} | {
            f"plda.{name}": array for name, array in plda.items()
        }
        content = save({name: np.ascontiguousarray(a, "<f8") for name, a in tensors.items()})
        target = Path(folder)
        (target / RECORD_FILE).unlink(missing_ok=True)
        with atomic_write(target / ARRAYS_FILE, "wb") as stream:
            stream.write(content)
        record = {
            "format": _FORMAT,
            "steps": steps,
            "dim": self.plda.dim,
            "average_raw": self.average_raw,
            "normalize_length": self.normalize_length,
            **self.record,
            "sha256": sha256(content).hexdigest(),
        }
        write_json(target / RECORD_FILE, record)

    @classmethod
    def load(cls, folder: PathLike) -> PldaBackend:
        """Read what ``save`` wrote.

        Raises:
            DataError: a file is missing, changed since it was written, or not of this format.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path, arrays_path = Path(folder) / RECORD_FILE, Path(folder) / ARRAYS_FILE
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise DataError(f"{path}: not a PLDA model of this version; train it again")
        try:
            content = arrays_path.read_bytes()
        except OSError as error:
            raise DataError(f"{arrays_path}: {error.strerror}; train the PLDA again") from error
        if sha256(content).hexdigest() != record.get("sha256"):
            raise DataError(
                f"{arrays_path}: its content is not what {path} records. The model is damaged or "
                "of two trainings: copy it again, or train it again."
            )
        try:
            arrays = load(content)
            steps = {n.removeprefix("chain."): a for n, a in arrays.items() if n[:6] == "chain."}
            plda = Plda(*(arrays[f"plda.{name}"] for name in ("mean", "transform", "psi")))
            chain = Chain.from_record(record["steps"], steps)
            rules = bool(record["average_raw"]), bool(record["normalize_length"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: does not describe {arrays_path} ({error!r})") from error
        return cls(chain, plda, *rules, {k: record[k] for k in record if k in _MADE_BY})

    def score(
        self,
        trials: Trials,
        enroll: Embeddings,
        test: Embeddings,
        models: Mapping[str, Sequence[str]] | None = None,
        enroll_count: EnrollCount = "book",
    ) -> np.ndarray:
        """Return the log-likelihood ratio of every trial, (T,) float64.

        Args:
            trials: T pairs of keys.
            enroll: embeddings of the first column, or of the utterances of ``models``.
            test: embeddings of the second column; may be the same object as ``enroll``.
            models: utterance keys of every enrolment model, when the first column names models.
            enroll_count: a model of n utterances counts as n of them ("book") or as one utterance
                that happens to be their mean ("one").

        Raises:
            DataError: keys without an embedding, models without utterances or with one twice, or
                widths that do not fit.
        """
        check_widths(enroll, test)
        self._check_width(enroll)
        models = models or {}
        rows, sizes, enroll_at = _enrolment(trials.enroll, enroll, models)
        counts = np.ones_like(sizes) if enroll_count == "one" else sizes
        test_rows = test.rows(trials.test)
        if self.average_raw and models:
            averages = _means(enroll.matrix[rows].astype(np.float64), sizes)
            enroll = Embeddings(list(dict.fromkeys(trials.enroll)), averages, enroll.source)
            rows, sizes = np.arange(len(averages)), np.ones_like(sizes)
        vectors, tests, test_at = self._project_sides(enroll, rows, test, test_rows)
        vectors = _means(vectors, sizes)
        if self.normalize_length:
            vectors = _expected_length(vectors, self.plda.psi, counts)
            tests = _expected_length(tests, self.plda.psi, np.ones(1))
        return pair_llrs(self.plda.psi, vectors, counts, tests, enroll_at, test_at)

    def adapted(
        self,
        embeddings: Embeddings,
        method: AdaptMethod = "kaldi",
        within_scale: float = 0.3,
        between_scale: float = 0.7,
        mean_diff_scale: float = 1.0,
    ) -> PldaBackend:
        """Adapt to unlabelled embeddings of another domain; see ``wesp_lap.scoring.plda.adapt``.

        When the chain begins with ``mean-subtract``, it subtracts their mean from now on.
        """
        self._check_width(embeddings)
        chain = self.chain.with_mean(embeddings.matrix.mean(axis=0, dtype=np.float64))
        found = collect(embeddings, np.zeros(len(embeddings.keys), np.intp), chain.apply)
        scales = {
            "within_scale": within_scale,
            "between_scale": between_scale,
            "mean_diff_scale": mean_diff_scale,
        }
        plda = adapt(self.plda, found.mean(), found.within(), method, **scales)
        made = {"embeddings": embeddings.source, "utterances": found.total, "method": method}
        record = {**self.record, "adaptation": {**made, **(scales if method == "kaldi" else {})}}
        return PldaBackend(chain, plda, self.average_raw, self.normalize_length, record)

    def _check_width(self, embeddings: Embeddings) -> None:
        wanted = self.chain.input_dim or self.plda.dim
        if embeddings.dim != wanted:
            raise DataError(
                f"{embeddings.source}: embeddings have {embeddings.dim} dimensions, the PLDA was "
                f"trained with {wanted}; both must come from the same model"
            )

    def _project_sides(
        self, enroll: Embeddings, rows: np.ndarray, test: Embeddings, test_rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project what both sides use, each distinct row once.

        Returns:
            The ``rows`` of ``enroll`` (m, D), the used rows of ``test`` (V, D), and where each of
            ``test_rows`` finds its own among these (T,).
        """
        if enroll is not test:
            used, test_at = _used(test_rows, len(test.keys))
            return self._project(enroll, rows), self._project(test, used), test_at
        used, at = _used(np.concatenate([rows, test_rows]), len(test.keys))
        both = self._project(test, used)
        return both[at[: len(rows)]], both, at[len(rows) :]

    def _project(self, embeddings: Embeddings, rows: np.ndarray) -> np.ndarray:
        """Apply chain and model to some rows, (m, D) float32, in blocks."""
        projected = np.empty((len(rows), self.plda.dim), np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            vectors = finite_block(embeddings, rows[block], self.chain.apply)
            projected[block] = self.plda.project(vectors)
        return projected


_MADE_BY = ("chain", "training", "adaptation", "source")


def train_backend(
    embeddings: Embeddings,
    utt2spk: Mapping[str, str],
    chain: str = DEFAULT_CHAIN,
    iterations: int = 10,
    start: Start = "moments",
) -> PldaBackend:
    """Fit the chain and the PLDA on labelled embeddings.

    Args:
        embeddings: n training utterances.
        utt2spk: speaker of every utterance.
        chain: steps, as ``wesp_lap.scoring.transforms`` describes.
        iterations: EM iterations.
        start: "moments" or "identity", see ``train_plda``.

    Raises:
        ConfigError: the chain or a setting is wrong.
        DataError: utterances without a speaker, too few speakers, no speaker with two utterances,
            a singular covariance.
    """
    codes, speakers = speaker_codes(embeddings, utt2spk)
    fitted, statistics = fit_chain(chain, embeddings, codes)
    plda, likelihoods = train_plda(statistics, iterations, start)
    training = {
        "embeddings": embeddings.source,
        "utterances": len(codes),
        "speakers": speakers,
        "iterations": iterations,
        "start": start,
        "log_likelihood": likelihoods,
    }
    return PldaBackend(fitted, plda, record={"chain": chain, "training": training})


def _enrolment(
    names: Sequence[str], embeddings: Embeddings, models: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of all utterances, model by model, how many each has, and each trial's model.

    Models come in the order in which the trials name them. Without ``models``, a name is its own
    utterance.
    """
    if not models:
        used, at = _used(embeddings.rows(names), len(embeddings.keys))
        return used, np.ones(len(used), np.intp), at
    position = {name: number for number, name in enumerate(dict.fromkeys(names))}
    problems = [f"{name}: not in the enrolment map" for name in position if name not in models]
    for name in position:
        keys = models.get(name, ["any"])
        if not keys or len(set(keys)) < len(keys):
            problems.append(f"{name}: {'an utterance twice' if keys else 'no utterance'}")
    mend = "Every name in the first column of the trials needs a line 'model utterance ...'."
    raise_problems("enrolment models that cannot be made", problems, mend)
    rows = embeddings.rows([key for name in position for key in models[name]])
    sizes = np.array([len(models[name]) for name in position])
    return rows, sizes, np.fromiter(map(position.__getitem__, names), np.intp, len(names))


def _used(rows: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, rising, and where each of ``rows`` stands among them."""
    used = np.zeros(total, bool)
    used[rows] = True
    return np.flatnonzero(used), (np.cumsum(used) - 1)[rows]


def _means(vectors: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Average consecutive rows, ``sizes`` of them at a time; the type stays."""
    if len(sizes) == len(vectors):
        return vectors
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    sums = np.add.reduceat(vectors, starts, axis=0, dtype=np.float64)
    return (sums / sizes[:, None]).astype(vectors.dtype)


def _expected_length(vectors: np.ndarray, psi: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Scale rows z so that sum z^2 / (psi + 1/n) is D, as it is on average."""
    expected = psi + 1 / counts[:, None]
    lengths = (vectors.astype(np.float64) ** 2 / expected).sum(axis=1)
    if not lengths.all():
        raise DataError("an embedding equals the mean of the PLDA and has no direction")
    return vectors * np.sqrt(vectors.shape[1] / lengths)[:, None].astype(vectors.dtype)
