"""Train a PLDA back-end: python -m wesp_lap.bin.train_plda --help."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.scoring.plda import AdaptMethod, Start
from wesp_lap.scoring.plda_backend import DEFAULT_CHAIN
from wesp_lap.scoring.plda_lists import Adaptation, train_plda_files


def train_plda(
    scp: str,
    utt2spk: str,
    out: str,
    chain: str = DEFAULT_CHAIN,
    iterations: int = 10,
    start: Start = "moments",
    adapt_scp: str | None = None,
    adapt_method: AdaptMethod = "kaldi",
    within_scale: float = 0.3,
    between_scale: float = 0.7,
    mean_diff_scale: float = 1.0,
) -> None:
    """Fit transforms and a two-covariance PLDA on embeddings, and write them to OUT.

    Args:
        scp: training embeddings.
        utt2spk: their speakers.
        out: directory for plda.json and plda.safetensors.
        chain: transforms before the PLDA with bars between them, in quotes: mean-subtract, lda (as
            lda:dim=150), whiten, length-norm (to length 1; length-norm:to=sqrt-dim as in Kaldi);
            none for no transform.
        iterations: EM iterations.
        start: moments starts EM from the covariances of the data, identity as Kaldi and WeSpeaker.
        adapt_scp: embeddings of another domain, without labels, to adapt to.
        adapt_method: kaldi, or coral, which recolours the whole covariance.
        within_scale: kaldi only, share of the excess variance that goes to the speakers' own.
        between_scale: kaldi only, share that goes to the variance between speakers.
        mean_diff_scale: kaldi only, how much of the shift of the mean counts as variance.
    """
    adaptation = None
    if adapt_scp is not None:
        adaptation = Adaptation(
            adapt_scp, adapt_method, within_scale, between_scale, mean_diff_scale
        )
    backend = train_plda_files(scp, utt2spk, out, chain, iterations, start, adaptation)
    likelihoods = backend.record["training"]["log_likelihood"]
    print(f"{out}: log-likelihood per utterance {likelihoods[0]:.4f} -> {likelihoods[-1]:.4f}")


if __name__ == "__main__":
    run_command(train_plda)
