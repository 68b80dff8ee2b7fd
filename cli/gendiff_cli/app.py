"""The ``gendiff`` command: global options, sub-commands, and how errors become exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff import __version__
from gendiff.command import again, keep, started
from gendiff.errors import GendiffError, PluginError, reason
from gendiff_cli.commands import UsageError, announcing, options_first
from gendiff_cli.console import Verbosity, fail, note, warn_in_notes
from gendiff_cli.descriptors import results_apart
from gendiff_cli.refusal import misused

if TYPE_CHECKING:
    from gendiff.plugin.registry import Entry, Problem, Registry

_registry: list[Registry] = []  # the one in force: knows whose code an unforeseen error came from

#: The commands in the order of the help, and what it says of each.
COMMANDS = {
    "train": "Train a diffusion. Without options: the process of DDPM on embedded handwritten digits, some minutes on a laptop.",
    "import": "Make a run of a pretrained model: to sample from, to measure, to train on.",
    "sample": "Sample from a run: single images in a folder of their own, events/, and a grid of the first 64.",
    "restore": "Restore pictures from what was measured of them, with any run: deblurring, inpainting, super-resolution.",
    "invert": "The noise from which the deterministic path leads back to pictures, and how near it comes to them.",
    "interpolate": "From one picture to another, along the noise from which the deterministic path leads to each.",
    "evaluate": "Measure how far samples are from data: FID and its relatives, spectrum, brightness and contrast.",
    "compare": "Compare arms under one budget: train what is missing, sample with shared noise, rank with intervals.",
    "tune": "Search settings with Optuna: each trial is a run, measured on its way and given up early where that is bad.",
    "reproduce": "Reproduce a figure or the table of the blur-diffusion paper, or hold processes against their isotropic twin.",
    "export": "Write a trained network for people who have no gendiff: a pipeline of diffusers, safetensors, ONNX.",
    "push": "Export a trained network to the Hub of Hugging Face, with its model card.",
    "process": "What a process does, before any training; how likely a trained one makes its data.",
    "plugins": "What is installed, its health, and plugins of your own.",
    "data": "Sources of events.",
    "runs": "What was trained.",
    "config": "The resolved configuration, and where each value comes from.",
    "doctor": "Show what a bug report needs: versions, machine, GPUs, plugins; exit code 3 where a plugin is broken.",
}

app = typer.Typer(
    name="gendiff",
    cls=announcing("gendiff_cli", COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        print(f"gendiff {__version__}")
        raise typer.Exit


@app.callback()
def gendiff(
    context: typer.Context,
    plugin: Annotated[list[Path] | None, typer.Option(help="Load a plugin file too; may be given again.")] = None,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Load gendiff's own plugins and those of --plugin, no others.")
    ] = False,
    block: Annotated[
        list[str] | None, typer.Option(help="Do not import this plugin; may be given again.", metavar="NAME")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Generalized diffusion in a rotated coordinate system, each component at its own speed.

    These options are taken before a command and after it.
    """
    Verbosity.level = 1 if verbose else -1 if quiet else 0
    files = [word for file in plugin or () for word in ("--plugin", str(file))]
    blocks = [word for name in block or () for word in ("--block", name)]
    keep([*files, *(["--no-plugins"] if no_plugins else []), *blocks])
    context.obj = partial(_registry_of, plugin or (), no_plugins, block or ())


def _registry_of(files: Sequence[Path], no_plugins: bool, block: Sequence[str]) -> Registry:
    """The registry of the plugins that the user has and gives, put in force."""
    from gendiff.names import set_default_resolver
    from gendiff.plugin import discovery
    from gendiff.plugin.registry import Registry

    discovery.begin_anew()
    paths = [] if no_plugins else os.environ.get("GENDIFF_PLUGINS", "").split(os.pathsep)
    plugins = [discovery.file(Path(path), "GENDIFF_PLUGINS") for path in paths if path]
    registry = Registry(files, third_party=not no_plugins, block=block, plugins=plugins)
    for problem in registry.problems:
        if isinstance(problem.cause, discovery.Damaged):
            note(f"the installed distribution {problem.provider.origin} is damaged: {problem.why}")
        elif problem.provider.sha256 and problem.status == "broken":  # it was asked for by name
            _file_problem(problem, "--plugin" if Path(problem.provider.origin) in files else "GENDIFF_PLUGINS")
    set_default_resolver(registry.component_class)
    _registry[:] = [registry]
    return registry


def _file_problem(problem: Problem, where: str) -> None:
    """Say what is wrong with a plugin file that the user gave; raises `PluginError` where nothing of it can be used."""
    if problem.cause is None:
        note(f"the plugin file {problem.provider.origin} is broken: {problem.why}")
        return
    raise PluginError(
        f"the plugin file '{problem.provider.origin}' cannot be used",
        where=where,
        details=[problem.why],
        fix=f"correct it, or leave it out{'' if Verbosity.level > 0 else '; see the traceback: ' + again('-v')}",
    ) from problem.cause


def main() -> None:
    """Run the command line; never returns."""
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")  # a name that is no text is no reason to fail
    command = typer.main.get_command(app)
    Verbosity.level = 1 if {"-v", "--verbose"} & set(sys.argv) else 0  # of errors in the line itself too
    try:
        line = options_first(command.params, sys.argv[1:])
    except GendiffError as error:
        sys.exit(fail(error))
    with started(line):
        _run(command, line)


def _run(command: Any, line: list[str]) -> None:
    try:
        with warnings.catch_warnings(), results_apart():
            warn_in_notes()
            code = command.main(line, prog_name="gendiff", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it has shown its help
            sys.exit(2)
        sys.exit(fail(misused(error, "gendiff")))
    except PluginError as error:
        if (entry := _culprit(error)) and str(entry.provider) not in str(error):
            error.details = (*error.details, f"provided by {entry.provider}")
        sys.exit(fail(error))
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


def _where_to() -> list[str]:
    """Where a fault of gendiff's own is reported, as far as the installation says."""
    from gendiff.machine.installation import issues

    return [f"report it, with what `gendiff doctor` prints: {address}"] if (address := issues()) else []


def _culprit(error: BaseException) -> Entry | None:
    """The component whose code raised the error; None for nobody's."""
    from gendiff.plugin.blame import culprit

    return culprit(error, [entry for registry in _registry for entry in registry.entries()])


def _unexpected(error: Exception) -> GendiffError:
    """An error that nobody foresaw, with its cause kept for ``-v``."""
    from gendiff.machine.memory import out_of_memory, shortage
    from gendiff.plugin.blame import accusation
    from gendiff.storage.disk import FULL, refusal

    if demand := shortage(error):
        complaint = out_of_memory(demand)
    elif isinstance(error, OSError) and error.errno in FULL:
        complaint = refusal(error)
    elif entry := _culprit(error):
        complaint = accusation(entry, error)
    elif isinstance(error, OSError):
        file = f" '{error.filename}'" if error.filename else " a file"
        no_access = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        fix = "see that you may read and write it, or name another place" if no_access else ""
        complaint = GendiffError(f"cannot use{file}: {error.strerror or reason(error)}", fix=fix)
    else:
        complaint = GendiffError(
            f"gendiff failed: {reason(error)}",
            details=["this is a fault of gendiff's own", *_where_to()],
            fix=f"see the traceback: {again('-v')}",
        )
    complaint.__cause__ = error
    return complaint
