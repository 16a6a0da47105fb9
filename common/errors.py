"""Exception classes. Each message is one line: what was given, what was expected, how to fix it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

__all__ = [
    "BackendError",
    "ConfigError",
    "DisagreementError",
    "DivergedError",
    "InputError",
    "InterruptedRunError",
    "RosettaError",
    "WeightsError",
    "no_device",
    "shown",
    "unknown",
]


_LONGEST = 2000
"""Largest length of a message, in characters; longer ones lose their middle."""


def _one_line(message: str) -> str:
    """Return a message as one line without control characters, which names in a file may contain."""
    return _shortened(
        "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in _shortened(message))
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class RosettaError(Exception):
    """An error that the user can fix. `exit_status`: of the command."""

    exit_status = 2

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class ConfigError(RosettaError, ValueError):
    """A network, backend or setting that does not exist or is out of range."""


class InputError(RosettaError, ValueError):
    """An input array, file or path that cannot be used."""


class WeightsError(RosettaError, ValueError):
    """A weights file that is damaged or does not fit the network."""


class BackendError(RosettaError, RuntimeError):
    """A backend that is missing or whose process failed."""

    exit_status = 3


class DisagreementError(RosettaError, ArithmeticError):
    """An exported artifact whose output differs from the reference."""

    exit_status = 1


class DivergedError(RosettaError, ArithmeticError):
    """A training run whose loss or weights became NaN or infinite."""

    exit_status = 1


class InterruptedRunError(RosettaError):
    """Work that Ctrl-C or SIGTERM interrupted; the message says what was kept."""

    exit_status = 130


_repr = reprlib.Repr()
_repr.maxlevel = 4
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 20
_repr.maxstring = _repr.maxlong = _repr.maxother = 80


def shown(value: object) -> str:
    """Return `repr(value)` for a message, with long and deep values shortened."""
    return _repr.repr(value)


def unknown(kind: str, given: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an unknown name, which suggests the nearest names, or lists all if none is near."""
    choices, given = list(known), _shortened(given)
    near = difflib.get_close_matches(given, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(choices)}"
    return ConfigError(f"there is no {kind} '{given}'; {hint}")


def no_device(framework: str) -> BackendError:
    """Return the error for a framework that sees no GPU."""
    return BackendError(
        f"--device gpu: this {framework} sees no GPU; use --device cpu, or install a build of {framework} for your GPU"
    )
