"""Write data directories, the enrolment map and both trial lists of CN-Celeb."""

from __future__ import annotations

from wesp_lap.cli import run_command
from wesp_lap.corpora.cnceleb import prepare_cnceleb


def prepare_data(
    out: str,
    cnceleb1: str,
    cnceleb2: str | None = None,
    combine_seconds: float = 5.0,
    nj: int = 0,
    exclude: str | None = None,
) -> None:
    """Write OUT/train and OUT/eval with eval/enroll.map, eval/trials/*.lst and eval/by/*.

    Args:
        out: folder of the data directories; nothing is done when they are up to date.
        cnceleb1: CN-Celeb1, with data/ and eval/{enroll,test,lists}.
        cnceleb2: CN-Celeb2, with data/; its speakers join the training set.
        combine_seconds: shorter training utterances are joined by speaker and genre; 0 for none.
        nj: processes that join; 0 for one per core.
        exclude: table of training utterances to leave out, such as OUT/train/bad_files.
    """
    prepare_cnceleb(out, cnceleb1, cnceleb2, combine_seconds, nj, exclude)
    print(out)


if __name__ == "__main__":
    run_command(prepare_data)
