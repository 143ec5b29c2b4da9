"""Label every frame of a corpus with its cluster."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.extraction import open_source
from wesp_lap.pretraining.frames import Workers
from wesp_lap.pretraining.labelling import make_labels
from wesp_lap.pretraining.labels import TEXT_FILE, write_text


def main(
    clusters: str,
    out: str,
    data: str | None = None,
    shards: str | None = None,
    model: str | None = None,
    text: bool = False,
    device: str | None = None,
    nj: int = 0,
) -> None:
    """Write labels of all utterances to OUT; a run that was stopped goes on where it was.

    Args:
        clusters: Directory that learn_clusters wrote.
        out: Directory for the labels.
        data: Kaldi data directory.
        shards: shard.list or raw.list instead of a data directory.
        model: Directory of the encoder, when it is no longer where the clusters were learnt.
        text: Write OUT/labels.txt, too: one line per utterance, its key and its labels.
        device: cpu or cuda, for an encoder; a GPU when there is one by default.
        nj: Processes on a CPU; 0 means one per core.
    """
    store = make_labels(open_source(data, shards), clusters, out, Workers(device, nj), model)
    if text:
        write_text(store, f"{out}/{TEXT_FILE}")
    print(
        f"{out}: {len(store)} utterances, {store.record['labels']} labels at {store.rate:g} Hz, "
        f"{store.num_clusters} clusters"
    )


if __name__ == "__main__":
    run_command(main)
