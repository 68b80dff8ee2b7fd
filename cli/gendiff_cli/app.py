"""The ``gendiff`` command: global options, sub-commands, and how errors become exit codes."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gendiff import __version__
from gendiff.command import again, keep, started
from gendiff.component import set_default_resolver
from gendiff.errors import ConfigError, GendiffError, PluginError, failure, reason
from gendiff.machine.memory import out_of_memory, shortage
from gendiff.machine.stopping import StopRequest, interruptible, stopped
from gendiff.plugin import discovery
from gendiff.plugin.blame import culprit
from gendiff.plugin.registry import Entry, Problem, Registry
from gendiff.storage.disk import FULL, refusal
from gendiff_cli import compare, config, data, evaluate, plugins, process, reproduce, runs, sample, train
from gendiff_cli.console import Verbosity, fail, note, results_alone
from gendiff_cli.descriptors import results_apart
from gendiff_cli.refusal import refused

_registry: list[Registry] = []  # the one in force: knows whose code an unforeseen error came from


class Command(TyperCommand):
    """A command in which components cannot write to stdout, end the program only by an error, and are stopped on request.

    No option and no argument is an empty text: to a user that is a variable that is not set, to Python the working folder.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the command line; a value that an option does not take is repeated in the error."""
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except typer.BadParameter as error:
            if (
                type(error) is typer.BadParameter
                and error.param is not None
                and error.param.param_type_name == "option"
            ):
                raise refused(error, words) from error
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; what is empty is refused."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        _refuse_empty(self, ctx, words)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        with results_alone():
            try:
                with interruptible():
                    return super().invoke(ctx)
            except StopRequest as stop:
                raise stopped("", stop.number, "every file that was written is whole") from stop
            except (Exception, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise failure(error) from error


class Commands(TyperGroup):
    """The commands, and the options that stand before them: none is an empty text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command; what is empty is refused."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        _refuse_empty(self, ctx, words)
        return rest


def _refuse_empty(command: Any, ctx: Any, words: list[str]) -> None:
    if ctx.resilient_parsing or not any(word == "" or word.endswith("=") for word in words):
        return
    given = command.make_parser(ctx).parse_args(words)[0]
    for parameter in command.params:
        value = given.get(parameter.name)
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            option = parameter.param_type_name == "option"
            name = max(parameter.opts, key=len) if option else (parameter.metavar or parameter.name.upper())
            raise ConfigError(
                f"{name} is given nothing",
                details=["a shell variable that is not set gives nothing"],
                fix="give it a value" + (", or leave the option out" if option else ""),
            )


app = typer.Typer(
    name="gendiff",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Generalized diffusion in a rotated coordinate system, each component at its own speed.",
)
app.command()(train.train)
app.command()(sample.sample)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(reproduce.reproduce)
app.add_typer(process.app, name="process")
app.add_typer(plugins.app, name="plugins")
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(config.app, name="config")
for _group in (app, *(known.typer_instance for known in app.registered_groups)):
    for _command in _group.registered_commands if _group else ():
        _command.cls = Command


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
    """Generalized diffusion in a rotated coordinate system, each component at its own speed."""
    Verbosity.level = 1 if verbose else -1 if quiet else 0
    files = [word for file in plugin or () for word in ("--plugin", str(file))]
    blocked = [word for name in block or () for word in ("--block", name)]
    keep([*files, *(["--no-plugins"] if no_plugins else []), *blocked])
    discovery.begin_anew()
    named = [] if no_plugins else os.environ.get("GENDIFF_PLUGINS", "").split(os.pathsep)
    plugins = [discovery.file(Path(path), "GENDIFF_PLUGINS") for path in named if path]
    registry = Registry(files=plugin or (), third_party=not no_plugins, block=block or (), plugins=plugins)
    for problem in registry.problems:
        if isinstance(problem.cause, discovery.Damaged):
            note(f"the installed distribution {problem.provider.origin} is damaged: {problem.why}")
        elif problem.provider.sha256 and problem.status == "broken":  # it was asked for by name
            _file_problem(problem, "--plugin" if Path(problem.provider.origin) in (plugin or ()) else "GENDIFF_PLUGINS")
    set_default_resolver(registry.component_class)
    _registry[:] = [registry]
    context.obj = registry


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
    with started(sys.argv[1:]):
        _run()


def _run() -> None:
    try:
        with warnings.catch_warnings(), results_apart():
            if not {"-v", "--verbose"} & set(sys.argv):
                warnings.showwarning = _as_note
            app(prog_name="gendiff")
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


def _as_note(
    message: Warning | str, category: type, filename: str, lineno: int, file: object = None, line: object = None
) -> None:
    """A warning as a user wants to read it: what it says, and not which line of code says so."""
    note(" ".join(str(message).split()))


def _interrupted() -> GendiffError:
    error = GendiffError("interrupted")
    error.exit_code = 130
    return error


def _culprit(error: BaseException) -> Entry | None:
    """The component whose code raised the error; None for nobody's."""
    return culprit(error, [entry for registry in _registry for entry in registry.entries()])


def _unexpected(error: Exception) -> GendiffError:
    """An error that nobody foresaw, with its cause kept for ``-v``."""
    if asked := shortage(error):
        wrapped = out_of_memory(asked)
    elif isinstance(error, OSError) and error.errno in FULL:
        wrapped = refusal(error)
    elif entry := _culprit(error):
        wrapped = PluginError(
            f"{entry.kind} '{entry.name}' of {entry.provider} failed: {reason(error)}",
            fix=f"see the traceback: {again('-v')}",
        )
    elif isinstance(error, OSError):
        file = f" '{error.filename}'" if error.filename else " a file"
        barred = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        fix = "see that you may read and write it, or name another place" if barred else ""
        wrapped = GendiffError(f"cannot use{file}: {error.strerror or reason(error)}", fix=fix)
    else:
        wrapped = GendiffError(f"gendiff failed: {reason(error)}", fix=f"see the traceback: {again('-v')}")
    wrapped.__cause__ = error
    return wrapped
