"""The command-line program `rosetta`. Heavy modules are imported when a command needs them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from common import __version__
from common.cli.bench import bench
from common.cli.export import export
from common.cli.networks import doctor, init, list_networks, run
from common.cli.options import example
from common.cli.parity import diagnose, mutants, parity
from common.cli.recommend import recommend
from common.cli.training import compare, evaluate, predict, train
from common.cli.view import activations, show, site, summary
from common.errors import RosettaError, unknown

__all__ = ["main"]


class _Group(click.Group):
    """A command group whose error for an unknown command suggests the nearest names."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and not cmd_name.startswith("-"):
            raise unknown("command", cmd_name, self.commands)
        return command


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=example("rosetta doctor", "rosetta parity lenet resnet18 --html report.html"),
)
@click.version_option(__version__, prog_name="rosetta")
def cli() -> None:
    """Classic convolutional networks in PyTorch, JAX, TensorFlow, MXNet and NumPy that compute the same numbers.

    Exit status: 0 success, 1 results differ, 2 a bad option or file, 3 a backend is missing or failed.
    """


for command in (
    *(doctor, list_networks, init, run, activations, parity, diagnose, mutants, summary, show, site),
    *(train, evaluate, predict, compare, bench, export, recommend),
):
    cli.add_command(command)


def _fail(message: str) -> None:
    click.echo(f"rosetta: {' '.join(message.split())}", err=True)


def _terminate(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status. Every error that the user can fix is one line on standard error."""
    # SystemExit ends workers and removes temporary files. Under nohup, SIGHUP stays ignored.
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate)
    try:
        return cli.main(arguments, prog_name="rosetta", standalone_mode=False) or 0
    except RosettaError as error:
        _fail(str(error))
        return error.exit_status
    except click.ClickException as error:
        _fail(error.format_message())
        return 2
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; no partial files were left")
        return 130
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed in {sys.executable}; install rosetta there with its dependencies")
        status = 3
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    except (OSError, MemoryError) as error:
        _fail(f"system error: {error or 'out of memory'}; no partial files were left")
        status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
