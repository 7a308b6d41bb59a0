"""Start several worker processes, replace those that end, and forward signals to them."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from django.db import connections

from signalbox.outbox.wakeup import Notifier
from signalbox.outbox.worker import _HANDLED_SIGNALS, Worker, WorkerOptions, logger

if TYPE_CHECKING:
    pass


class Supervisor:
    """Starts worker processes and replaces those that die."""

    def __init__(self, processes: int, options: WorkerOptions) -> None:
        self.processes = processes
        self.options = options
        self.children: dict[int, float] = {}
        """Process ids of the workers, and when each was started."""
        self.reload = False
        self._stop_requests = 0
        """How often this process was asked to end."""
        self._forwarded_stop_requests: dict[int, int] = {}
        """How often each worker was asked to end."""
        self._burst_finished = False
        self._restart_delay = 1.0

    def run(self) -> int:
        """Supervise until a signal ends it."""
        notifier = Notifier([])
        handlers = {
            signal.SIGTERM: self._on_terminate,
            signal.SIGINT: self._on_terminate,
            signal.SIGHUP: self._on_hangup,
            signal.SIGCHLD: lambda: None,
        }
        connections.close_all()
        try:
            with notifier.handle_signals(handlers):
                self._supervise(notifier)
        finally:
            notifier.close()
        return 0

    def _supervise(self, notifier: Notifier) -> None:
        next_start = 0.0
        while True:
            if time.monotonic() >= next_start:
                while not self.stopping and len(self.children) < self.processes:
                    self._start_worker()
            self._forward_stop_requests()
            if not (self.stopping and not self.children):
                notifier.wait(1.0)
            if self._reap_workers():
                next_start = time.monotonic() + self._restart_delay
            if (self.stopping or self.options.burst or self.options.once) and not self.children:
                return

    @property
    def stopping(self) -> bool:
        """Whether no more workers are started."""
        return bool(self._stop_requests) or self._burst_finished

    def _start_worker(self) -> None:
        supervisor_pid = os.getpid()
        # Block signals until the new process has reset the handlers that it inherits from this one.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_SIGNALS)
        pid = os.fork()
        if pid:
            self.children[pid] = time.monotonic()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HANDLED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            status = Worker(self.options, supervisor_pid=supervisor_pid).run()
        finally:
            logging.shutdown()
            os._exit(status)

    def _forward_stop_requests(self) -> None:
        """Ask every worker to end as often as this process was asked, including workers that were started later."""
        for pid in self.children:
            if self._forwarded_stop_requests.get(pid, 0) < self._stop_requests:
                self._forwarded_stop_requests[pid] = self._stop_requests
                os.kill(pid, signal.SIGTERM)

    def _reap_workers(self) -> bool:
        """Remove the workers that ended; return whether one ended without being asked."""
        died = False
        for pid, started_at in list(self.children.items()):
            ended_pid, status = os.waitpid(pid, os.WNOHANG)
            if not ended_pid:
                continue
            del self.children[pid]
            self._forwarded_stop_requests.pop(pid, None)
            finished = (self.options.burst or self.options.once) and status == 0
            if finished:
                self._burst_finished = True
            elif not self.stopping:
                died = True
                ended_early = time.monotonic() - started_at < 10
                self._restart_delay = min(30.0, self._restart_delay * 2) if ended_early else 1.0
                logger.error(
                    "Worker %d ended with status %d and is replaced in %g s.", pid, status, self._restart_delay
                )
        return died

    # Handlers only set plain values, see `Worker`.

    def _on_terminate(self) -> None:
        self._stop_requests += 1

    def _on_hangup(self) -> None:
        self.reload = True
        self._stop_requests += 1
