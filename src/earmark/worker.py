"""Processes that do one task after the other for this one, and are replaced when they die.

A task is one line of JSON; its answer is one, with bytes behind it if there are any.  What
kills a process, computes without end or talks on standard output harms nothing but its own task.

A plain subprocess: multiprocessing would run the caller's main module once more, and
concurrent.futures gives up the whole batch when one of its processes dies.  Nothing is
forked from a process in which CUDA or threads are at work.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from earmark.child import die_with_parent
from earmark.errors import EarmarkError, SetupError

T = TypeVar("T")

#: What a process says before its first task.
_READY = b"ready\n"
#: What a task's answer is: anything JSON can hold, and bytes.
Answer = tuple[dict[str, Any], bytes]


class DiedError(Exception):
    """A task killed two processes; the text is the name of the last one's signal."""


class OutOfTimeError(Exception):
    """A task computed for too long."""


#: So many times the processor time of a task may pass on the clock: on a machine that does much
#: else a task is slow through no fault of its own.
_PATIENCE = 10


class Worker:
    """A process that does tasks. To be used by one thread at a time."""

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        """Nothing starts yet.

        Args:
            module: ``python -m`` runs it; it calls :func:`serve`.
            settings: What it gets on its command line, as JSON can hold it.
        """
        self._module, self._settings = module, json.dumps(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._is_stopped = self._is_ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """Kill the process, if there is one."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(BrokenPipeError), process:
            process.kill()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process if there is none; :meth:`ask` does so by itself.

        It is killed when the thread that started it ends (:mod:`earmark.child`), so that one
        has to stay.
        """
        with self._starting:
            if self._is_stopped:
                raise ChildProcessError("the process was stopped")
            if self._process is None:
                self._is_ready = False
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._module, str(os.getpid()), self._settings],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    # It is one core's worth; numpy would also reserve memory for each thread.
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )
            return self._process

    def stop(self) -> None:
        """Stop for good what another thread waits for: that one gets a ChildProcessError."""
        with self._starting:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def ask(self, task: Mapping[str, Any], processor_seconds: float) -> Answer:
        """Have a task done.

        Args:
            task: What the process is told.
            processor_seconds: Time that the process may compute.

        Returns:
            The answer.

        Raises:
            DiedError: the process died over it twice.
            OutOfTimeError: it computed for too long.
            EarmarkError: it neither computed so long nor answered in ten times that on the clock.
            SetupError: the process can't get ready.
            OSError: the system refused something to the process, or to start it.
        """
        # A process may be killed for want of memory that others took: only what kills two of
        # them is the task's own fault.
        died = ""
        limited = json.dumps({**task, "processor_seconds": processor_seconds}).encode()
        for _ in range(2):
            answer, died = self._attempt(limited, _PATIENCE * processor_seconds)
            if answer is not None:
                if "refused" in answer[0]:
                    raise OSError(*answer[0]["refused"])
                return answer
            if died == signal.SIGPROF.name:
                raise OutOfTimeError(f"not done in {processor_seconds:g} seconds of computing")
        raise DiedError(died)

    def _attempt(self, task: bytes, timeout_seconds: float) -> tuple[Answer | None, str]:
        """The answer, or None and the name of the signal that the process died of."""
        process = self.start()
        out_of_time = threading.Event()

        def stop() -> None:
            out_of_time.set()
            process.kill()

        timer = threading.Timer(timeout_seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            self._is_ready = self._is_ready or process.stdout.readline() == _READY
            answer = _exchange(process, task) if self._is_ready else None
        finally:
            timer.cancel()
        if answer is not None:
            return answer, ""
        code = process.wait()
        self._end()
        if out_of_time.is_set():
            raise EarmarkError(
                f"{self._module} neither computed nor answered for {timeout_seconds:g} seconds: "
                "the volume or the machine is overloaded or stuck; a later attempt may do better"
            )
        if code >= 0 and not self._is_ready:  # before it saw any task
            raise SetupError(
                f"{self._module} can't start (exit status {code}); what it said stands above: "
                "something is wrong with the installation or with a model in it"
            )
        if code >= 0:  # Python's own: a broken installation, and no task's fault
            raise ChildProcessError(f"{self._module} ended with code {code}; see above")
        return None, signal.Signals(-code).name


class Workers:
    """Some processes, and a thread for each that waits for its answers."""

    def __init__(self, module: str, settings: Mapping[str, Any], count: int) -> None:
        """As :class:`Worker`, so many of them."""
        self._stack = ExitStack()
        self._all = [Worker(module, settings) for _ in range(count)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        for worker in self._all:
            self._idle.put(self._stack.enter_context(worker))
        self._stack.enter_context(self._threads)
        self._stack.callback(self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _stop(self) -> None:
        """End what is at work and forget what is queued: nobody waits for it any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.stop()

    def start(self) -> None:
        """Start all processes now, from this thread: what they import takes them a while."""
        for worker in self._all:
            worker.start()

    def submit(self, work: Callable[[Worker], T]) -> Future[T]:
        """Have work done by a process that is free, in the order of the calls.

        Args:
            work: Asks the process that it gets.
        """

        def with_worker() -> T:
            worker = self._idle.get()
            try:
                return work(worker)
            finally:
                self._idle.put(worker)

        return self._threads.submit(with_worker)


def _exchange(process: subprocess.Popen[bytes], task: bytes) -> Answer | None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(task + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        return None
    answer = json.loads(line)
    size = answer.pop("bytes_behind")
    content = process.stdout.read(size)
    return (answer, content) if len(content) == size else None


def serve(parent: str, load: Callable[[], Callable[[dict[str, Any]], Answer]]) -> None:
    """Do each task of standard input and answer on standard output, until the parent ends.

    Args:
        parent: Process id of the parent, from the command line.
        load: Gets ready and returns what does one task. An answer
            ``{"refused": [errno, strerror, filename]}`` raises OSError in the parent; an
            exception ends the process, and the parent's work.
    """
    die_with_parent(int(parent))
    # What prints must not talk into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answer = load()
    answers.write(_READY)
    answers.flush()
    for line in sys.stdin:
        task = json.loads(line)
        # The kernel ends the process by SIGPROF when the time is up.
        signal.setitimer(signal.ITIMER_PROF, task.pop("processor_seconds"))
        said, content = answer(task)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps({**said, "bytes_behind": len(content)}).encode() + b"\n")
        answers.write(content)
        answers.flush()
