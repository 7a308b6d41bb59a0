"""Start several worker processes, replace those that end, and forward signals to them."""

from __future__ import annotations

import logging
import os
import signal

from django.db import connections

from signalbox.core import clock, observers
from signalbox.outbox.wakeup import Notifier
from signalbox.outbox.worker import _HANDLED_SIGNALS, Worker, WorkerOptions, logger


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
        self._finished_count = 0
        """Number of workers that ended a burst by themselves. These are not replaced."""
        self._restart_delay = 1.0
        self._exit_status = 0

    def run(self) -> int:
        """Supervise until a signal or the end of a burst; return the exit status: 1 if a worker of a burst failed."""
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
        return self._exit_status

    def _supervise(self, notifier: Notifier) -> None:
        next_start = 0.0
        while True:
            if clock.monotonic() >= next_start:
                while not self.stopping and len(self.children) + self._finished_count < self.processes:
                    self._start_worker()
            self._forward_stop_requests()
            if not (self.stopping and not self.children):
                notifier.wait(1.0)
            if self._reap_workers():
                next_start = clock.monotonic() + self._restart_delay
            if not self.children and (self.stopping or self._finished_count >= self.processes):
                return

    @property
    def stopping(self) -> bool:
        """Whether no more workers are started."""
        return bool(self._stop_requests)

    def _start_worker(self) -> None:
        supervisor_pid = os.getpid()
        # Block signals until the new process has reset the handlers that it inherits from this one.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_SIGNALS)
        pid = os.fork()
        if pid:
            self.children[pid] = clock.monotonic()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HANDLED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            status = Worker(self.options, supervisor_pid=supervisor_pid).run()
        except BaseException:
            logger.critical("A worker process ended with an exception.", exc_info=True)
            raise
        finally:
            observers.notify(observers.attempts, "on_worker_end")
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
            exit_code = os.waitstatus_to_exitcode(status)
            # One that was killed, or has a stuck receiver, leaves deliveries that another must run.
            finished = (self.options.burst or self.options.once) and exit_code in (0, 1)
            if finished:
                self._finished_count += 1
                self._exit_status = max(self._exit_status, exit_code)
            elif not self.stopping:
                died = True
                ended_early = clock.monotonic() - started_at < 10
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
