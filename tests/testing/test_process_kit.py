"""What the kit asks of a process: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import types

from flaws import DESTROYS, Fails, assert_found, broken, each, titles
from parts import Cosines, Rises, Walsh

from gendiff import Rotation, Velocity, hookimpl
from gendiff.process import Process
from gendiff.testing import score

fails = Fails()

PARTS = "its parts are known by name"


class Pair(Process):
    """a process, for others to change."""

    name = "mutant"

    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Velocity.model_validate("blur")


@fails(PARTS, "seen: unknown velocity 'mutant'")
@fails(DESTROYS, "grows or is NaN")
class UnknownPart(Pair):
    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Rises()


class Impostor(Cosines):
    name = "dct"


@fails(PARTS, "expected rotation 'dct' in the registry; seen: DCT")
class BorrowedName(Pair):
    def parts(self) -> tuple[Rotation, Velocity]:
        return Impostor(), Velocity.model_validate("blur")


@fails(DESTROYS, "expected pictures or signals that it takes; seen: velocity 'fine-to-coarse' cannot be used")
class DoNotFit(Pair):
    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Velocity.model_validate("fine-to-coarse")


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("process") <= fails.titles


@each(Pair)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


def test_a_process_of_such_parts_passes(gendiff_registry):
    class Waves(Process):
        """square waves."""

        name = "waves"

        def parts(self) -> tuple[Rotation, Velocity]:
            return Walsh(), Velocity.model_validate("blur")

    plugin = types.SimpleNamespace(gendiff_components=hookimpl(lambda: [Walsh]), __name__="waves")
    gendiff_registry(plugin)
    lines = {line.title: line for line in score(Waves())}
    assert lines[PARTS].passed
    assert lines[PARTS].seen == "walsh-only, blur"
    assert lines[DESTROYS].passed
