"""The ``gendiff`` command: global options, sub-commands, and how errors become exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gendiff import __version__
from gendiff.component import set_default_resolver
from gendiff.errors import GendiffError
from gendiff.registry import Registry
from gendiff_cli import config, data, plugins, sample, train
from gendiff_cli.console import Verbosity, fail

app = typer.Typer(
    name="gendiff",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Generalized diffusion in a rotated coordinate system, each component at its own speed.",
)
app.command()(train.train)
app.command()(sample.sample)
app.add_typer(plugins.app, name="plugins")
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")


def _version(show: bool) -> None:
    if show:
        print(f"gendiff {__version__}")
        raise typer.Exit


@app.callback()
def gendiff(
    context: typer.Context,
    plugin: Annotated[list[Path] | None, typer.Option(help="Load a plugin file too; may be given again.")] = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Load no installed third-party plugins.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Generalized diffusion in a rotated coordinate system, each component at its own speed."""
    Verbosity.level = 1 if verbose else -1 if quiet else 0
    registry = Registry(files=plugin or (), third_party=not no_plugins)
    set_default_resolver(registry.resolve)
    context.obj = registry


def main() -> None:
    """Run the command line; never returns."""
    try:
        app(prog_name="gendiff")
    except GendiffError as error:
        sys.exit(fail(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe is gone: nothing is left to say
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(fail(_interrupted()))
    except Exception as error:  # the last resort: one screen instead of a traceback
        sys.exit(fail(_unexpected(error)))


def _interrupted() -> GendiffError:
    error = GendiffError("interrupted")
    error.exit_code = 130
    return error


def _unexpected(error: Exception) -> GendiffError:
    """An error that nobody foresaw, with its cause kept for ``-v``."""
    if type(error).__name__ == "OutOfMemoryError":
        wrapped = GendiffError("the GPU is out of memory", fix="lower --batch, or use --precision bf16")
    elif isinstance(error, MemoryError):
        wrapped = GendiffError("out of memory", fix="lower --batch")
    elif isinstance(error, OSError):
        wrapped = GendiffError(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    else:
        wrapped = GendiffError(f"{type(error).__name__}: {error}", fix="see the traceback: gendiff -v ...")
    wrapped.__cause__ = error
    return wrapped
