"""Commands: what all of them hold to, and how one is known before it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gendiff.errors import ConfigError, failure


class Command(TyperCommand):
    """A command in which components cannot write to stdout, end the program only by an error, and are stopped on request.

    No option and no argument is an empty text: to a user that is a variable that is not set, to Python the working folder.
    """

    def get_params(self, ctx: Any) -> Any:
        """Its parameters."""
        return _lightly(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its help."""
        with _without_markdown():
            super().format_help(ctx, formatter)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the command line; a value that an option does not take is repeated in the error."""
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except typer.BadParameter as error:
            from gendiff_cli.refusal import refused

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
        if any(word == "" or word.endswith("=") for word in words) and not ctx.resilient_parsing:
            _refuse_empty(self.make_parser(ctx).parse_args(words)[0], self.params)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run it, with the registry, which help and completion do without."""
        from gendiff.machine.stopping import StopRequest, interruptible, stopped
        from gendiff_cli.console import results_alone

        ctx.obj = ctx.obj()
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


def _refuse_empty(given: Mapping[str, Any], parameters: Sequence[Any]) -> None:
    for parameter in parameters:
        value = given.get(parameter.name)
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            option = parameter.param_type_name == "option"
            name = max(parameter.opts, key=len) if option else (parameter.metavar or parameter.name.upper())
            raise ConfigError(
                f"{name} is given nothing",
                details=["a shell variable that is not set gives nothing"],
                fix="give it a value" + (", or leave the option out" if option else ""),
            )


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters."""
        return _lightly(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its help."""
        with _without_markdown():
            super().format_help(ctx, formatter)


class Announced(TyperCommand):
    """A command, or a group of them, that is imported when it is called.

    Args:
        place: ``"package.module:name"`` of its function, or of the `typer.Typer` of a group.
        line: what a list of commands says of it, the first line of its help.

    """

    def __init__(self, name: str, place: str, line: str) -> None:
        super().__init__(name, help=line)
        self.place = place

    @cached_property
    def itself(self) -> Any:
        """The command; imports its module."""
        module, _, name = self.place.partition(":")
        target = getattr(import_module(module), name)
        if isinstance(target, typer.Typer):
            for command in target.registered_commands:
                command.cls = Command
            return typer.main.get_group(target)
        app = typer.Typer(add_completion=False)
        app.command(self.name, cls=Command)(target)
        return typer.main.get_command(app)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """What typer does next is done with the command itself."""
        return self.itself.make_context(info_name, args, parent, **extra)


def announcing(commands: Mapping[str, tuple[str, str]]) -> type[TyperGroup]:
    """A group of commands, each of which is imported when it is called: their place and line by name."""

    class Announcing(Group):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            for name, (place, line) in commands.items():
                self.add_command(Announced(name, place, line))

    return Announcing


# --- light help and completion ----------------------------------------------------------------------------------------


def _lightly(parameters: Sequence[Any]) -> Sequence[Any]:
    """The parameters, which are converted where they are given: typer imports pydantic to convert nothing, too."""
    for parameter in parameters:
        if not isinstance(parameter.process_value, partial):
            parameter.process_value = partial(_processed, parameter, parameter.process_value)
    return parameters


def _processed(parameter: Any, process: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    if ctx.resilient_parsing:  # a shell asks what could be written next
        return value
    if value is not None or parameter.required:
        return process(ctx, value)
    nothing = () if parameter.multiple or parameter.nargs == -1 else None
    return parameter.callback(ctx, parameter, nothing) if parameter.callback else nothing


@contextmanager
def _without_markdown() -> Iterator[None]:
    """Inside the block typer finds nothing that renders Markdown and tracebacks, which it imports, and our help has not."""
    absent = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
    absent = {module: name for module, name in absent.items() if module not in sys.modules}
    for module, name in absent.items():
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], name, type(name, (), {}))
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]
