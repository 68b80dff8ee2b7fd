"""What the kit asks of a logger: every check finds something, and what is only unusual passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from flaws import Fails, assert_found, broken, each, titles

from gendiff import hookimpl
from gendiff.errors import ConfigError
from gendiff.logger import Logger

fails = Fails()

READY, WHOLE_RUN = "it says clearly when it cannot work", "its observer lives through a whole run"


class Watcher:
    @hookimpl
    def gendiff_step(self, step: int, loss: float) -> None:
        assert loss == 1 / step


class Watch(Logger):
    """a logger, for others to change."""

    name = "mutant"
    watcher: ClassVar[Callable[[], object]] = Watcher

    def observer(self, run: Path) -> object:
        return type(self).watcher()


@fails(READY, "expected an error that says how to fix it; seen: no library")
class NoFix(Watch):
    def ready(self) -> None:
        raise ConfigError("no library")


@fails(READY, "seen: ModuleNotFoundError: No module named")
class ImportsInReady(Watch):
    def ready(self) -> None:
        import a_module_that_is_not_here  # noqa: F401


class Failing:
    @hookimpl
    def gendiff_samples_ready(self) -> None:
        raise OSError("disk full")


@fails(WHOLE_RUN, r"expected no error; seen: gendiff_samples_ready: OSError: disk full \(test_logger_kit.py, line")
class FailsInHook(Watch):
    watcher = Failing


class Exits:
    @hookimpl
    def gendiff_run_ended(self) -> None:
        raise SystemExit(3)


@fails(WHOLE_RUN, "seen: gendiff_run_ended: SystemExit: 3")
class EndsTheProgram(Watch):
    watcher = Exits


class Misspelt:
    @hookimpl
    def gendiff_steps(self, step: int) -> None:
        pass


@fails(WHOLE_RUN, "seen: PluginValidationError: unknown hook 'gendiff_steps'")
class MisspeltHook(Watch):
    watcher = Misspelt


class WrongArgument:
    @hookimpl
    def gendiff_step(self, stp: int) -> None:
        pass


@fails(WHOLE_RUN, "seen: PluginValidationError: .*stp")
class MisspeltArgument(Watch):
    watcher = WrongArgument


@fails(WHOLE_RUN, "expected an observer with at least one hook; seen: none")
class HearsNothing(Watch):
    watcher = object


@fails(WHOLE_RUN, "expected nothing on stdout; seen: 'here I am")
class Prints(Watch):
    def observer(self, run: Path) -> object:
        print("here I am")
        return Watcher()


@fails(WHOLE_RUN, "seen: RuntimeError: no observer")
class CannotBeMade(Watch):
    def observer(self, run: Path) -> object:
        raise RuntimeError("no observer")


class Meddler:
    @hookimpl
    def gendiff_run_started(self, config: dict[str, Any]) -> None:
        config.pop("N")


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Missing(Watch):
    """needs a library that is not there."""

    name = "missing"

    def ready(self) -> None:
        raise ConfigError("no library", fix="pip install library")

    def observer(self, run: Path) -> object:
        raise AssertionError("nobody should ask")


class Talker:
    @hookimpl
    def gendiff_run_started(self, run: Path) -> None:
        print("hello", (run / "run.json").read_text())  # while a run goes on, stdout is kept free for it
        assert (run / "config.toml").read_text()


class Talks(Watch):
    """prints in a hook, and reads the run."""

    name = "talks"
    watcher = Talker


class Meddles(Watch):
    """changes what it is told: nobody else notices."""

    name = "meddles"
    watcher = Meddler


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("logger") <= fails.titles


@each(Watch)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Missing, Talks, Meddles)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
