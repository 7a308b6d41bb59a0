"""Starts several worker processes, restarts those that end, and forwards signals to them."""

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
    """Starts workers, and starts them anew when they die."""

    def __init__(self, processes: int, options: WorkerOptions) -> None:
        self.processes = processes
        self.options = options
        self.children: dict[int, float] = {}
        """Each worker's process, and when it began."""
        self.reload = False
        self._stop_requests = 0
        """How often this process was told to end."""
        self._forwarded_stop_requests: dict[int, int] = {}
        """How often each worker was."""
        self._burst_finished = False
        self._restart_delay = 1.0

    def run(self) -> int:
        """Supervise until told to stop."""
        waiting = Notifier([])
        handlers = {
            signal.SIGTERM: self._on_terminate,
            signal.SIGINT: self._on_terminate,
            signal.SIGHUP: self._on_hangup,
            signal.SIGCHLD: lambda: None,
        }
        connections.close_all()
        try:
            with waiting.handle_signals(handlers):
                self._supervise(waiting)
        finally:
            waiting.close()
        return 0

    def _supervise(self, notifier: Notifier) -> None:
        again = 0.0
        while True:
            if time.monotonic() >= again:
                while not self.stopping and len(self.children) < self.processes:
                    self._start_worker()
            self._forward_stop_requests()
            if not (self.stopping and not self.children):
                notifier.wait(1.0)
            if self._reap_workers():
                again = time.monotonic() + self._restart_delay
            if (self.stopping or self.options.burst or self.options.once) and not self.children:
                return

    @property
    def stopping(self) -> bool:
        """Whether no worker is to be started any more."""
        return bool(self._stop_requests) or self._burst_finished

    def _start_worker(self) -> None:
        supervisor = os.getpid()
        # A signal waits until the new process has put the handlers aside that it got from this one.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_SIGNALS)
        number = os.fork()
        if number:
            self.children[number] = time.monotonic()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for one in _HANDLED_SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            status = Worker(self.options, supervisor_pid=supervisor).run()
        finally:
            logging.shutdown()
            os._exit(status)

    def _forward_stop_requests(self) -> None:
        """Tell every worker to end as often as this process was told, also those that were started meanwhile."""
        for number in self.children:
            if self._forwarded_stop_requests.get(number, 0) < self._stop_requests:
                self._forwarded_stop_requests[number] = self._stop_requests
                os.kill(number, signal.SIGTERM)

    def _reap_workers(self) -> bool:
        """Forget the workers that ended; return whether one died that nobody told to."""
        died = False
        for number, began in list(self.children.items()):
            ended, status = os.waitpid(number, os.WNOHANG)
            if not ended:
                continue
            del self.children[number]
            self._forwarded_stop_requests.pop(number, None)
            finished = (self.options.burst or self.options.once) and status == 0
            if finished:
                self._burst_finished = True
            elif not self.stopping:
                died = True
                quickly = time.monotonic() - began < 10
                self._restart_delay = min(30.0, self._restart_delay * 2) if quickly else 1.0
                logger.error(
                    "Worker %d ended with status %d and is replaced in %g s.", number, status, self._restart_delay
                )
        return died

    # Handlers set plain values alone, see `Worker`.

    def _on_terminate(self) -> None:
        self._stop_requests += 1

    def _on_hangup(self) -> None:
        self.reload = True
        self._stop_requests += 1
