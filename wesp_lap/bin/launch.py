"""torchrun with one sentence where it would print a traceback: launch OPTIONS MODULE ARGUMENTS."""

from __future__ import annotations

import logging
import os
import sys


def main(words: list[str]) -> int:
    """Run torch.distributed.run with ``words``; return the exit code of the first failed process.

    The processes name their errors themselves; torchrun's report on top of that buries them.
    """
    # A restarted run otherwise meets the dead workers' addresses in the shared store and hangs.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.main(words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code < 0:
            reason = f"was killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
            print(f"error: training process {rank} {reason}", file=sys.stderr)
        return code if code > 0 else 128 - code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
