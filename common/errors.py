"""What rosetta refuses, and why: each error is one line that says what was given, expected, and how to mend it."""

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
"""Characters of a message; of a longer one the middle is left out."""


def _one_line(message: str) -> str:
    """Return a message as one line without control characters: names out of a file may hold anything."""
    return _shortened(
        "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in _shortened(message))
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class RosettaError(Exception):
    """Something the user can mend; `exit_status` is what the command ends with."""

    exit_status = 2

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class ConfigError(RosettaError, ValueError):
    """A network, a backend or a configuration that cannot be."""


class InputError(RosettaError, ValueError):
    """An input array or a path that cannot be used."""


class WeightsError(RosettaError, ValueError):
    """A weights file that is not what it should be."""


class BackendError(RosettaError, RuntimeError):
    """A backend that is missing or died."""

    exit_status = 3


class DisagreementError(RosettaError, ArithmeticError):
    """An artifact that does not compute what it was made of."""

    exit_status = 1


class DivergedError(RosettaError, ArithmeticError):
    """A training run whose loss or weights are no finite numbers any more."""

    exit_status = 1


class InterruptedRunError(RosettaError):
    """What was asked for could not be given before Ctrl-C, or the request to end; says what was kept."""

    exit_status = 130


_repr = reprlib.Repr()
_repr.maxlevel = 4
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 20
_repr.maxstring = _repr.maxlong = _repr.maxother = 80


def shown(value: object) -> str:
    """Return a value as a message shows it: long and deep ones in part."""
    return _repr.repr(value)


def unknown(kind: str, given: str, known: Iterable[str]) -> ConfigError:
    """Say that `given` is no `kind`, naming the nearest of `known`, or all of them where none is near."""
    choices, given = list(known), _shortened(given)
    near = difflib.get_close_matches(given, choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(choices)}"
    return ConfigError(f"there is no {kind} '{given}'; {hint}")


def no_device(framework: str) -> BackendError:
    """Say that a framework sees no GPU."""
    return BackendError(
        f"--device gpu: this {framework} sees no GPU; use --device cpu, or install a build of {framework} for your GPU"
    )
