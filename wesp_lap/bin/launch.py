"""torchrun with one sentence where it would print a traceback: launch OPTIONS MODULE ARGUMENTS."""

from __future__ import annotations

import logging
import os
import sys


def main(words: list[str]) -> int:
    """Run torch.distributed.run with ``words``; return the exit code of the first failed process.

    The processes name their errors themselves; torchrun's report on top of that buries them. The
    signals of wesp_lap.training.interruption are passed on to the processes.
    """
    # A restarted run otherwise meets the dead workers' addresses in the shared store and hangs.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from wesp_lap.training.agent import launch

    return launch(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
