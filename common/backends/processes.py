"""Workers seen from the harness: starting them, asking them, and saying what they died of."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from common.backends import environments, registry
from common.errors import BackendError

__all__ = ["THREAD_VARIABLES", "MissingBackendError", "Worker", "WorkerClient", "cause_of_death", "end", "join"]


class WorkerClient(Protocol):
    """Whoever answers requests as a worker does."""

    def ask(self, action: str, **details: Any) -> dict[str, Any]:
        """Send one request and return its answer. Raises BackendError where there is none."""


class MissingBackendError(BackendError):
    """A backend that is not installed."""


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
"""What tells each library with how many threads to compute."""


def _environment(threads: int) -> dict[str, str]:
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    for variable in THREAD_VARIABLES:
        environment.setdefault(variable, str(threads))
    # A worker runs the code of this checkout, whatever its own environment holds. Where rosetta is installed among
    # other packages, that folder would bring those along too: there the worker's environment has its own rosetta.
    if (environments.PROJECT / "pyproject.toml").exists():
        environment["PYTHONPATH"] = str(environments.PROJECT)
    return environment


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session of its own, and all that it started, at once."""
    # Those that made a session of their own are found only while it lives.
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def cause_of_death(status: int, log: Path) -> str:
    """Say what a process died of, by its exit status and the last line of its standard error."""
    if status < 0:
        cause = f"was killed by {signal.Signals(-status).name}"
        if -status == signal.SIGKILL:
            cause += " (out of memory?)"
    else:
        cause = f"ended with status {status}"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return cause + (f": {last[0].strip()}" if last else "")


_LOOK = 0.5
"""Seconds between two looks at whether a worker that is silent still lives."""


class Worker:
    """A backend's process. Use it as a context manager: leaving ends the process and all that it started.

    `folder` is where its requests and its standard error go; `limit` is how many seconds one answer may take.
    """

    def __init__(self, name: str, folder: Path, threads: int = 1, limit: float = 600) -> None:
        self.name = name
        self.limit = limit
        self._folder = folder
        self._environment = _environment(threads)
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
        """Whether there is a process to ask."""
        return self._process is not None

    def start(self) -> None:
        """Start the process and wait until it has imported its framework.

        Raises MissingBackendError where the framework is not installed, BackendError where it does not start.
        """
        interpreter = registry.find_interpreter(self.name)
        if interpreter is None:
            raise MissingBackendError(
                f"backend {self.name} is not installed; install it {environments.install_hint(self.name)}, or name an "
                f"interpreter that has it in ROSETTA_PYTHON_{self.name.upper()}"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = self._folder / "stderr.txt"
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [str(interpreter.path), "-m", "common.parity.worker", self.name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    errors="replace",
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise BackendError(f"backend {self.name}: cannot start {interpreter.path}: {error.strerror}") from None
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
            # Closed here: elsewhere that would wait for this reading, which some process left behind may keep up.
            with process.stdout:
                for line in process.stdout:
                    lines.put(line)
        lines.put(None)

    def ask(self, action: str, **details: Any) -> dict[str, Any]:
        """Send one request and return its answer, starting the process first where there is none.

        Raises BackendError where the worker fails, dies, is silent past its limit or answers rubbish; it can be asked
        again.
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
            raise BackendError(f"backend {self.name} answered another request than it was asked")
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
            raise BackendError(f"backend {self.name} answered with what is no JSON object: {line.strip()[:80]!r}")
        return answer

    def _next_line(self) -> str | None:
        """Return the next line of output, or None once there is no more. Raises queue.Empty past the limit."""
        deadline = time.monotonic() + self.limit
        while True:
            try:
                return self._lines.get(timeout=min(_LOOK, max(deadline - time.monotonic(), 0)))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise
            # A child that the worker forked and left behind holds its output open.
            if self._process is not None and self._process.poll() is not None:
                try:
                    return self._lines.get(timeout=_LOOK)  # what it said before it died may have come since
                except queue.Empty:
                    return None

    def _death(self) -> str:
        """End what is left of the process and say what it died of."""
        try:
            status = self._process.wait(timeout=min(10, self.limit)) if self._process else 0
        except subprocess.TimeoutExpired:
            self.stop()
            return f"backend {self.name} closed its output and was ended"
        self.stop()
        return f"backend {self.name} {cause_of_death(status, self._log)}"

    def stop(self) -> None:
        """End the process, and all that it started, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        end(process)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def join(threads: Sequence[threading.Thread], stop: Callable[[], None]) -> None:
    """Wait for threads that feed workers. On an interruption `stop` them, and end the workers, before it goes on."""
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop()
        while any(thread.is_alive() and not thread.daemon for thread in threads):
            # Again and again: one may just be about to start. A second interruption asks for nothing else.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                time.sleep(0.05)
        raise
