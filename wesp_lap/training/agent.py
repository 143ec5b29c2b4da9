"""torchrun's agent, with signals that ask a run to save and leave passed on to its processes.

torchrun itself ends its processes on a signal, after half a minute for good, and reports none of
their exit codes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api

from wesp_lap.training.interruption import REQUEUE_EXIT_CODE, SIGNALS

# torch's own: how long processes may take to end before they are killed.
_GRACE_SECONDS = 30


class Agent(LocalElasticAgent):
    """Starts and watches the processes of a node.

    A signal is passed on; what follows is the processes' own business. One that has saved and left
    is not restarted, whatever ``--max_restarts`` says. When a process fails the others are killed:
    they wait for it and would catch a milder signal as one to save and leave.
    """

    received: signal.Signals | None = None

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        identities = super()._start_workers(worker_group)
        for number in SIGNALS:  # after the handlers of torch
            signal.signal(number, self._pass_on)
        context: Any = self._pcontext
        close = context.close

        def close_after_failure(
            death_sig: signal.Signals | None = None, timeout: int = _GRACE_SECONDS
        ) -> None:
            codes = [h.proc.returncode for h in context.subprocess_handlers.values()]
            leaving = REQUEUE_EXIT_CODE in codes
            close(death_sig or (signal.SIGTERM if leaving else signal.SIGKILL), timeout)

        context.close = close_after_failure
        return identities

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received == signal.SIGINT == Agent.received:
            raise SignalException("interrupted twice", received)
        Agent.received = received
        assert self._pcontext is not None
        for process in self._pcontext.pids().values():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        codes = [failure.exitcode for failure in result.failures.values()]
        if Agent.received is not None or REQUEUE_EXIT_CODE in codes:
            self._remaining_restarts = 0
        return result


def launch(words: Sequence[str]) -> int:
    """Run torch.distributed.run with ``words``; return the exit code of the first failed process.

    A run that was asked to leave ends with REQUEUE_EXIT_CODE, after Ctrl-C too when its processes
    have saved their state.
    """
    for number in SIGNALS:  # until there are processes, there is nothing to be saved
        signal.signal(number, _leave_at_once)
    api.LocalElasticAgent = Agent  # type: ignore[misc]
    try:
        run.main(list(words))
    except ChildFailedError as error:
        return _exit_code(*error.get_first_failure())
    except SignalException as error:
        return 128 + error.sigval
    except RendezvousError as error:
        endpoint = run.parse_args(list(words)).rdzv_endpoint
        reason = str(error) or type(error).__name__
        print(
            f"error: the nodes cannot meet at {endpoint}: {reason}. It must be one of the nodes, "
            "the same on all of them, with a port that nothing else uses",
            file=sys.stderr,
        )
        return 1
    return 0


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    sys.exit(_code_of(signal.Signals(number)))


def _code_of(received: signal.Signals) -> int:
    return 128 + received if received == signal.SIGINT else REQUEUE_EXIT_CODE


def _exit_code(rank: int, failure: ProcessFailure) -> int:
    code = failure.exitcode
    if Agent.received is not None and code == -Agent.received:
        return _code_of(Agent.received)  # the signal came before training began
    if code < 0:
        reason = f"was killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
        print(f"error: training process {rank} {reason}", file=sys.stderr)
    return code if code > 0 else 128 - code
