"""Commands: what all of them hold to, and how one is known before it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib import import_module
from keyword import iskeyword
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gendiff.errors import ConfigError, did_you_mean, failure, nearest

#: What typer raises for a line that it cannot read.
UsageError: type[Any] = typer.BadParameter.__bases__[0]
EVERYWHERE = (
    "Options of gendiff itself may stand here too: -q, -v, --plugin FILE, --no-plugins, --block NAME (gendiff -h)."
)


def options_first(parameters: Iterable[Any], words: Sequence[str]) -> list[str]:
    """The same words, with the options that are ``parameters`` before all others: they mean the same wherever they stand.

    Raises `ConfigError` where one of them that takes a value is the last word.
    """
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    flags = {name for option in options if option.is_flag for name in option.opts}
    valued = {name for option in options if not option.is_flag for name in option.opts}
    first, rest, remaining = list[str](), list[str](), iter(words)
    for word in remaining:
        if word == "--":
            rest += [word, *remaining]
        elif word in flags or (word.startswith("--") and word.partition("=")[0] in valued and "=" in word):
            first.append(word)
        elif word in valued:
            if (value := next(remaining, None)) is None:
                raise ConfigError(f"{word} is given nothing", fix="give it a value, or leave it out")
            first += [word, value]
        else:
            rest.append(word)
    return [*first, *rest]


class _Light:
    """What needs neither pydantic nor Markdown for help and completion."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, which are converted where they are given: typer imports pydantic to convert nothing, too."""
        parameters = super().get_params(ctx)  # type: ignore[misc]  # of a command
        for parameter in parameters:
            if not isinstance(parameter.process_value, partial):
                parameter.process_value = partial(_processed, parameter, parameter.process_value)
        return parameters

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write its help."""
        command: Any = self
        command.help = _flowing(command.help)
        with _without_markdown():
            super().format_help(ctx, formatter)  # type: ignore[misc]  # of a command


def _processed(parameter: Any, process: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    if ctx.resilient_parsing:  # a shell asks what could be written next
        return value
    if value is not None or parameter.required:
        return process(ctx, value)
    nothing = () if parameter.multiple or parameter.nargs == -1 else None
    return parameter.callback(ctx, parameter, nothing) if parameter.callback else nothing


def _flowing(text: str | None) -> str | None:
    """A docstring whose paragraphs are lines each, to be broken where a terminal ends and not where the source does."""
    return text and "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in text.split("\n\n"))


@contextmanager
def _without_markdown() -> Iterator[None]:
    """Inside the block typer finds nothing that renders Markdown and tracebacks, which it imports, and our help has not."""
    stand_ins = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
    absent = [module for module in stand_ins if module not in sys.modules]
    for module in absent:
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], stand_ins[module], type(stand_ins[module], (), {}))
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]


class Command(_Light, TyperCommand):
    """A command in which components cannot write to stdout, end the program only by an error, and are stopped on request.

    No option and no argument is an empty text: to a user that is a variable that is not set, to Python the working folder.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.epilog = self.epilog or EVERYWHERE

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the command line; raises `ConfigError` where it cannot be read."""
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            from gendiff_cli.refusal import misused, refused

            parameter = getattr(error, "param", None) if type(error) is typer.BadParameter else None
            if parameter is not None and (parameter.param_type_name == "option" or "is not one of" in error.message):
                raise refused(error, words) from error
            above = [parent.command_path] if parent else []
            raise misused(error, " ".join([*above, str(info_name)])) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; what is empty is refused, and a value that may be left out is there."""
        words = _completed(self, list(args))
        rest = super().parse_args(ctx, list(words))
        _refuse_empty(self, ctx, words)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run it, with the registry, which help and completion do without."""
        from gendiff.machine.stopping import StopRequest, interruptible, stopped
        from gendiff.machine.waiting import wait_briefly
        from gendiff_cli.console import results_alone

        wait_briefly()  # before a plugin loads torch
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


def _completed(command: Any, words: list[str]) -> list[str]:
    """The words, with the number of each option that may do without it: those whose metavar is such as ``[K=16]``."""
    optional = {
        option: parameter.metavar.strip("[]").partition("=")[2]
        for parameter in command.params
        if str(parameter.metavar).startswith("[")
        for option in parameter.opts
    }
    complete = list[str]()
    for place, word in enumerate(words):
        if word == "--":
            return complete + words[place:]
        complete.append(word)
        if word in optional and not "".join(words[place + 1 : place + 2]).lstrip("-").isdigit():
            complete.append(optional[word])
    return complete


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


class Group(_Light, TyperGroup):
    """A group of commands, and the options that stand before them: none is an empty text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command; what is empty is refused."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        _refuse_empty(self, ctx, words)
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; one that is none is refused with those that there are."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            raise ConfigError(
                f"unknown command '{name}'",
                details=[f"known: {', '.join(self.commands)}", self._meant(name, ctx.command_path)],
                fix=f"list all: {ctx.command_path} -h",
            )
        return super().resolve_command(ctx, args)

    def _meant(self, name: str, path: str) -> str:
        """What a word may mean that is no command: a command of a group in this one, or one of this one's own."""
        groups = {own: getattr(command, "itself", command) for own, command in self.commands.items()}
        inner = {own: group.commands for own, group in groups.items() if isinstance(group, TyperGroup)}
        exact = [f"{path} {own} {name}" for own, commands in inner.items() if name in commands]
        if exact:
            return f"did you mean {' or '.join(exact)}?"
        near = nearest(name, [*self.commands, *(word for commands in inner.values() for word in commands)])
        inside = [f"{path} {own} {near}" for own, commands in inner.items() if near in commands]
        if near in self.commands or not inside:
            return did_you_mean(name, self.commands)
        return f"did you mean {' or '.join(inside)}?"


class Announced(TyperCommand):
    """A command, or a group of them, that is imported when it is called.

    Args:
        module: it holds a function called ``name``, or the `typer.Typer` ``app`` of a group.
        line: what a list of commands says of it, the first line of its help.

    """

    def __init__(self, name: str, module: str, line: str) -> None:
        super().__init__(name, help=line)
        self.module = module

    @cached_property
    def itself(self) -> Any:
        """The command; imports its module."""
        module = import_module(self.module)
        if not (group := getattr(module, "app", None)):
            app = typer.Typer(add_completion=False)
            app.command(self.name, cls=Command)(getattr(module, _in_python(str(self.name))))
            return typer.main.get_command(app)
        for command in group.registered_commands:
            command.cls = Command
        return typer.main.get_group(group)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """What typer does next is done with the command itself."""
        return self.itself.make_context(info_name, args, parent, **extra)


def announcing(package: str, lines: Mapping[str, str]) -> type[TyperGroup]:
    """A group of the commands in the modules of a package, each imported when it is called: what a list says, by name."""

    class Announcing(Group):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            for name, line in lines.items():
                self.add_command(Announced(name, f"{package}.{_in_python(name)}", line))

    return Announcing


def _in_python(name: str) -> str:
    """The name of a command's module and function: ``import`` is a word of the language."""
    return f"{name}_" if iskeyword(name) else name
