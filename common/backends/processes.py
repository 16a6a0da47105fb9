"""Client side of the persistent worker processes, one per backend."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from common.backends import launch
from common.backends.launch import MissingBackendError
from common.errors import BackendError

__all__ = ["Worker", "WorkerClient", "join"]


class WorkerClient(Protocol):
    """Anything that answers requests as a worker does."""

    def ask(self, action: str, **details: Any) -> dict[str, Any]:
        """Send one request and return its answer. Raises BackendError if it fails."""


_POLL_SECONDS = 0.5
"""Time between two checks that a silent worker is still alive."""


class Worker:
    """A backend's worker process; as a context manager, it kills the process and its descendants on exit.

    `folder`: for requests and the process's standard error. `threads`: for numerical libraries, unless the user has set
    their variables. `limit`: seconds that one answer may take.
    """

    def __init__(self, name: str, folder: Path, threads: int = 1, limit: float = 600) -> None:
        self.name = name
        self.limit = limit
        self._folder = folder
        threads_by_library = dict.fromkeys(launch.THREAD_VARIABLES, str(threads))
        self._environment = threads_by_library | launch.project_environment(PYTHONUNBUFFERED="1")
        self._requests = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """True if the process was started and has not been stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start the process and wait until it has imported its framework.

        Raises MissingBackendError if the framework is not installed, BackendError if the process does not start.
        """
        interpreter = launch.interpreter(self.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = self._folder / "stderr.txt"
        command = ["-m", "common.parity.worker", self.name]
        try:
            self._process = launch.start(interpreter.path, command, self._environment, self._log, subprocess.PIPE)
        except BackendError as error:
            raise BackendError(f"backend {self.name}: {error}") from None
        self._lines = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        answer = self._answer()
        if answer.get("status") == "missing":
            self.stop()
            raise MissingBackendError(
                f"backend {self.name} is not installed in {interpreter.path} ({interpreter.found}): "
                f"{answer.get('message')}"
            )
        versions = answer.get("versions")
        if answer.get("status") != "ready" or not isinstance(versions, dict):
            self.stop()
            raise BackendError(f"backend {self.name} does not start: {answer.get('message', 'no reason given')}")
        self.versions = versions

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        if process.stdout is not None:
            # Closed here, because closing waits for this thread's read, which a leftover process may keep blocked.
            with process.stdout:
                for line in process.stdout:
                    lines.put(line)
        lines.put(None)

    def ask(self, action: str, **details: Any) -> dict[str, Any]:
        """Send one request and return its answer; start the process first if it does not run.

        Raises BackendError if the worker fails, dies, exceeds its limit or sends an invalid answer. Later requests are
        possible all the same.
        """
        if self._process is None:
            self.start()
        process = self._process
        if process is None or process.stdin is None:
            raise BackendError(f"backend {self.name} does not run")
        self._requests += 1
        path = self._folder / f"request{self._requests}.json"
        path.write_text(json.dumps({"id": self._requests, "action": action, **details}), encoding="utf-8")
        try:
            print(path, file=process.stdin, flush=True)
        except OSError:
            raise BackendError(self._death()) from None
        answer = self._answer()
        if answer.get("id") != self._requests:
            self.stop()
            raise BackendError(f"backend {self.name} answered another request than the one sent")
        if answer.get("status") != "ok":
            raise BackendError(f"backend {self.name}: {answer.get('message', 'failed without a reason')}")
        if not all(isinstance(answer.get(key), (int, float)) for key in ("seconds", "peak_bytes")):
            raise BackendError(f"backend {self.name} answered without its seconds and peak_bytes")
        return answer

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._next_line()
        except queue.Empty:
            self.stop()
            raise BackendError(f"backend {self.name} gave no answer within {self.limit:g} s and was ended") from None
        if line is None:
            raise BackendError(self._death())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.stop()
            raise BackendError(f"backend {self.name} sent no JSON object but {line.strip()[:80]!r}")
        return answer

    def _next_line(self) -> str | None:
        """Return the next line of output, or None at its end. Raises queue.Empty after the limit."""
        deadline = time.monotonic() + self.limit
        while True:
            try:
                return self._lines.get(timeout=min(_POLL_SECONDS, max(deadline - time.monotonic(), 0)))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise
            # A process that the worker left behind may hold its output open.
            if self._process is not None and self._process.poll() is not None:
                try:
                    return self._lines.get(timeout=_POLL_SECONDS)  # the last output may have arrived since
                except queue.Empty:
                    return None

    def _death(self) -> str:
        """Kill what is left of the process and return why it ended."""
        try:
            status = self._process.wait(timeout=min(10, self.limit)) if self._process else 0
        except subprocess.TimeoutExpired:
            self.stop()
            return f"backend {self.name} closed its output and was ended"
        self.stop()
        return f"backend {self.name} {launch.cause_of_death(status, self._log)}"

    def stop(self) -> None:
        """Kill the process and its descendants."""
        process, self._process = self._process, None
        if process is None:
            return
        launch.end(process)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def join(threads: Sequence[threading.Thread], stop: Callable[[], None]) -> None:
    """Wait for threads that use workers. On an interruption, call `stop` and kill all child processes first."""
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop()
        while any(thread.is_alive() and not thread.daemon for thread in threads):
            # Repeated, because a thread may be about to start another one. Further interruptions change nothing.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                time.sleep(0.05)
        raise
