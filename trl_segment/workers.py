"""
Processes of our own for work that may never end, such as algebra or a foreign regular expression on foreign text.

Python looks at signals only between its own instructions, and a thread cannot be stopped. A process can be killed.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any


class WorkerDied(RuntimeError):
    """A worker ended without an answer."""


class Worker:
    """
    A process that answers requests, one JSON line each. Its first line says that it is ready.

    Args:
        command (`list[str]`):
            Arguments of Python.
        start_seconds (`float`, *optional*, defaults to `120.0`):
            Time that its start may take: loading a library takes seconds on a busy machine.
    """

    def __init__(self, command: list[str], start_seconds: float = 120.0):
        self.command, self.start_seconds = command, start_seconds
        self.process: subprocess.Popen | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._owner = -1
        self._lock = threading.Lock()

    def ask(self, request: Any, seconds: float) -> Any:
        """
        Send a request and wait for the answer.

        Args:
            request (`Any`):
                JSON-compatible.
            seconds (`float`):
                Time for the answer. After that the process is killed; the next request starts another.

        Returns:
            `Any`: The answer.

        Raises:
            `TimeoutError`: If there is no answer in time.
            `WorkerDied`: If the process ends instead, twice: it may have been killed by chance before.
        """
        with self._lock:
            try:
                return self._ask(request, seconds)
            except WorkerDied:
                return self._ask(request, seconds)

    def stop(self) -> None:
        """Kill the process."""
        process, self.process = self.process, None
        if process is None or self._owner != os.getpid():  # a fork's copy: the process is the parent's
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _ask(self, request: Any, seconds: float) -> Any:
        if self._owner != os.getpid() or self.process is None or self.process.poll() is not None:
            self._start()
        # A process that does not read must not block this one
        threading.Thread(target=self._write, args=(json.dumps(request) + "\n",), daemon=True).start()
        return self._read(seconds)

    def _start(self) -> None:
        self.stop()
        self.process = process = subprocess.Popen(
            [sys.executable, *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            errors="replace",
        )
        self._owner, self._lines = os.getpid(), queue.SimpleQueue()
        threading.Thread(target=_collect, args=(process.stdout, self._lines), daemon=True).start()
        ready = self._read(self.start_seconds)
        if ready != "ready":
            self.stop()
            raise ImportError(str(ready))

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it is dead or gone, which reading finds out
            self.process.stdin.write(line)  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def _read(self, seconds: float) -> Any:
        try:
            line = self._lines.get(timeout=seconds)
            if line is not None:
                return json.loads(line)
        except queue.Empty:
            self.stop()
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        except ValueError:
            pass  # half a line
        self.stop()
        raise WorkerDied("the process ended without an answer")


def _collect(pipe: Any, lines: "queue.SimpleQueue[str | None]") -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in pipe:
            lines.put(line)
    lines.put(None)


def serve(answer: Callable[[Any], Any]) -> None:
    """
    Answer requests until the input ends: what a worker's process runs.

    Args:
        answer (`Callable`):
            Takes a request, returns the answer.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not get between the answers
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
