r"""Mutants: small changes to the mathematics, one at a time; the tests must notice each (``make mutants``).

A change is one that a person could make without seeing it: another operator or sign, a constant off by one or doubled, sin for
cos, exp for expm1, a factor, a term, a clamp or an argument left out, i for j. Each is made in memory, in a forked process where
torch and pytest are loaded already, and the tests that run its line are run until one fails, the fastest first. A survivor is
a missing assertion, unless the change means the same: then it stands in ``equivalent.toml`` with the reason, and does not count.

    python tests/campaigns/mutants.py                                        a sample of every module, within the hour
    python tests/campaigns/mutants.py --modules gendiff/level.py --all       every change to one
    python tests/campaigns/mutants.py --modules gendiff/level.py --grep sin  those whose text has "sin" in it

Exit 0 where at least 95 % of the changes to each module are noticed, 5 where not, 1 where a test fails without any change.

Why not a tool: mutmut (3.x) leaves out whatever is not in a function and every function with a decorator, and so the properties
and caches in which half of the formulas are; it copies the package beside itself, where the plugins, found by entry point, would
be the unchanged ones. cosmic-ray runs one command for all changes, and starts Python and torch, three seconds, for each. Neither
takes a seeded sample of each module, or keeps the reason for an equivalent change under its text: line numbers move. What is
left is `ast`, `fork` and pytest in process.

Which tests run a line is seen in one run of the unchanged code, each file of the table by itself, its tests with empty caches.
What a shared fixture runs belongs to every test that uses it. Lines that are run at import belong to all tests of the table.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import functools
import gc
import importlib.machinery
import importlib.util
import os
import pickle
import random
import re
import signal
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = "plugins/gendiff_plugins"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
ENOUGH = 0.95
NOT_ENOUGH = 5  # exit code
LATE = -signal.SIGALRM  # exit code of tests that did not end
LONGEST = 20.0  # seconds of the processor for the tests of one change

BASES = "test_bases test_rotation test_forward"
CURVES = "test_process test_diffusion test_golden"
PROCESSES = f"test_dense {CURVES} test_relatives"
LAWS = "test_dense test_samplers test_prediction"

#: The test files of each module, and of all modules of a folder of plugins, by name.
TABLE = {
    "gendiff/blur.py": f"{BASES} test_dense test_process test_diffusion",
    "gendiff/dct.py": f"{BASES} test_dense test_process test_diffusion",
    "gendiff/frequency.py": f"{BASES} test_dense test_process test_diffusion",
    "gendiff/rotation.py": f"{BASES} test_golden test_arguments",
    "gendiff/schedule.py": CURVES,
    "gendiff/formula.py": f"test_formula {PROCESSES}",
    "gendiff/scales.py": f"test_formula test_basis {PROCESSES}",
    "gendiff/level.py": f"{LAWS} test_diffusion test_objectives test_grids",
    "gendiff/diffusion.py": f"{PROCESSES} test_samplers test_arguments",
    "gendiff/score.py": "test_dense test_objectives test_diffusion test_samplers test_arguments",
    "gendiff/gaussian.py": "test_dense test_objectives test_diffusion test_samplers test_arguments",
    "gendiff/denoiser.py": "test_dense test_objectives test_diffusion test_samplers test_arguments",
    "gendiff/objective.py": "test_dense test_objectives test_arguments",
    "gendiff/sampler.py": f"{LAWS} test_grids test_arguments",
    "gendiff/grid.py": "test_grids test_samplers",
    "gendiff/moments.py": "test_moments test_grids test_relatives",
    "gendiff/evaluation/statistics.py": "test_distances test_evaluation",
    "gendiff/streams.py": "test_batches test_generation test_golden",
    "gendiff/training/recipe.py": "test_recipe test_training",
    "gendiff/training/trainer.py": "test_training test_step test_objectives",
    "gendiff/training/bands.py": "test_training test_step test_objectives",
    "gendiff/training/window.py": "test_training test_step test_objectives",
    "gendiff/training/step.py": "test_training test_step test_accumulation",
    "gendiff/evaluation/distances.py": "test_distances",
    "gendiff/lab/forward.py": "test_forward test_prediction",
    "gendiff/lab/diagnosis.py": "test_forward test_fitting",
    "gendiff/lab/recursion.py": LAWS,
    "gendiff/lab/prediction.py": "test_dense test_prediction test_fitting",
    "gendiff/lab/fitting.py": "test_fitting",
    "gendiff/bound.py": "test_dense test_likelihood test_objectives",
    "gendiff/lab/likelihood.py": "test_likelihood",
    f"{PLUGINS}/noises": CURVES,
    f"{PLUGINS}/schedules": CURVES,
    f"{PLUGINS}/velocities": f"{PROCESSES} test_forward",
    f"{PLUGINS}/processes": PROCESSES,
    f"{PLUGINS}/rotations": f"{BASES} test_golden",
    f"{PLUGINS}/objectives": "test_dense test_objectives",
    f"{PLUGINS}/grids": "test_grids test_samplers test_prediction",
    f"{PLUGINS}/samplers": f"{LAWS} test_relatives",
    f"{PLUGINS}/metrics": "test_metrics",
    f"{PLUGINS}/models/mlp.py": "test_models",
    f"{PLUGINS}/models/embedding.py": "test_models",
}
#: The functions that are mathematics, of a module that holds other things too.
MATHEMATICS = {
    "gendiff/training/recipe.py": "learning_rate ema_decay decays",
    "gendiff/training/trainer.py": "reduce_window open_window _read",
    "gendiff/training/bands.py": "means",
    "gendiff/training/window.py": "means",
    "gendiff/lab/fitting.py": "unit coordinate at fit _search never_rises _cost _data_snr _alive _same_steps",
    "gendiff/evaluation/statistics.py": "covariance factor add statistics _scatter _merge",
}
#: The classes of a file whose tests look at numbers, where the others stop, kill and begin processes.
CLASSES = {"test_training": "TestNonFinite TestPureFunctionsOfTheStep TestAverage TestGradients TestRows"}


def table() -> dict[str, list[str]]:
    """The test files of each module, by path."""
    tests = {file.stem: file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    found = {}
    for place, names in TABLE.items():
        modules = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).glob("[a-z]*.py"))
        found |= {module.relative_to(ROOT).as_posix(): [tests[name] for name in names.split()] for module in modules}
    return found


# --- the changes --------------------------------------------------------------------------------------------------------

OPERATORS = {
    ast.Add: "+-",
    ast.Sub: "-+",
    ast.Mult: "*/",
    ast.Div: "/*",
    ast.BitAnd: "&|",
    ast.BitOr: "|&",
    ast.Mod: "%*",
}
COMPARISONS: dict[type, tuple[str, ...]] = {
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
}
PAIRS = (
    "sin cos,max min,amax amin,argmax argmin,sum mean,exp expm1,log log1p,zeros ones,floor ceil,zeros_like ones_like,"
    "minimum maximum,log_a log_s,x_0 eps,a s,m c,variance mean,here there,first last,lower upper,low high,p q,i j"
)
OTHER_NAMES = {one: other for pair in map(str.split, PAIRS.split(",")) for one, other in (pair, pair[::-1])}
LEFT_OUT = "sqrt abs square clamp clamp_min clamp_max round flip cumsum diff sign nan_to_num float double floor sort"
OF_SHAPE = (  # their numbers are places of axes: a wrong one fails at once
    "reshape expand view flatten unflatten transpose movedim split unsqueeze chunk permute diag_embed diagonal meshgrid "
    "stack cat lru_cache"
)
NO_MATHEMATICS = "dtype device details fix subject where description strict generator key"
NAMESPACES = {"torch", "math", "np", "functional"}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Args:
        module: path of the file.
        line: where the statement begins that is changed.
        change: the text of its line, with ``⟦before→after⟧`` in it.
        source: of the changed file.
        imported: whether the statement is run when the module is imported.

    """

    module: str
    line: int
    change: str
    source: bytes
    imported: bool


def mutants(module: str, source: bytes, within: set[str] | None = None) -> list[Mutant]:
    """Every change to a file, in the order of its text; ``within`` are the functions that may be changed."""
    found: dict[bytes, Mutant] = {}
    starts = [0, *(match.end() for match in re.finditer(b"\n", source))]

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + column

    for edit in _Edits(source, offset, within).edits:
        statement, start, end, text = edit
        changed = source[:start] + text + source[end:]
        if changed in found:
            continue
        try:
            compile(changed, module, "exec")
        except SyntaxError:
            continue
        left = source.rfind(b"\n", 0, start) + 1
        right = source.find(b"\n", end)
        pieces = (source[left:start], source[start:end], text, source[end:right])
        change = " ".join("{}⟦{}→{}⟧{}".format(*(piece.decode() for piece in pieces)).split())
        found[changed] = Mutant(module, statement.line, change, changed, statement.imported)
    return list(found.values())


@dataclass(frozen=True)
class _Statement:
    line: int
    imported: bool


class _Edits(ast.NodeVisitor):
    """Collects (statement, start, end, text) over a file."""

    def __init__(self, source: bytes, offset: Callable[[int, int], int], within: set[str] | None) -> None:
        self.source, self.offset, self.within = source, offset, within
        self.edits: list[tuple[_Statement, int, int, bytes]] = []
        self.statement = _Statement(1, True)
        self.functions: list[ast.AST] = []
        self.names: set[str] = set()
        self.visit(ast.parse(source))

    # -- helpers

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> bytes:
        start, end = self.span(node)
        return self.source[start:end]

    def add(self, start: int, end: int, text: bytes | str) -> None:
        if self.within is not None and not any(getattr(f, "name", "") in self.within for f in self.functions):
            return
        self.edits.append((self.statement, start, end, text if isinstance(text, bytes) else text.encode()))

    def replace(self, node: ast.AST, text: bytes | str) -> None:
        self.add(*self.span(node), text)

    def between(self, left: ast.AST, right: ast.AST, before: str, after: str) -> None:
        """Change the operator between two nodes."""
        start, end = self.span(left)[1], self.span(right)[0]
        place = self.source[start:end].find(before.encode())
        if place >= 0 and b"#" not in self.source[start:end]:
            self.add(start + place, start + place + len(before), after)

    # -- statements

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr):
            return
        if isinstance(node, ast.stmt):
            outer, self.statement = self.statement, _Statement(node.lineno, not self.functions)
            super().visit(node)
            self.statement = outer
        else:
            super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d)):
            self.visit(default)
        outer = self.names
        self.functions.append(node)
        self.names = (
            outer
            | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            | {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
        )
        for child in node.body:
            self.visit(child)
        self.functions.pop()
        self.names = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in node.body:
            self.visit(child)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        if self.functions and names and names <= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}:
            self.replace(node, "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.replace(node, "pass")
        if type(node.op) in OPERATORS:
            before, after = OPERATORS[type(node.op)]
            self.between(node.target, node.value, f"{before}=", f"{after}=")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self.replace(node.test, b"not (" + self.text(node.test) + b")")
        self.generic_visit(node)

    # -- expressions

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sides = (node.left, node.right)
        if not any(
            isinstance(side, ast.JoinedStr | ast.List | ast.Tuple) or isinstance(getattr(side, "value", 0), str)
            for side in sides
        ):
            if type(node.op) in OPERATORS:
                self.between(node.left, node.right, *OPERATORS[type(node.op)])
            if isinstance(node.op, ast.Pow | ast.FloorDiv):
                self.between(node.left, node.right, *(("**", "*") if isinstance(node.op, ast.Pow) else ("//", "/")))
            if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow):
                self.replace(node, b"(" + self.text(node.left) + b")")
            if isinstance(node.op, ast.Add | ast.Mult | ast.Div | ast.Sub):
                self.replace(node, b"(" + self.text(node.right) + b")")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Invert | ast.Not):
            self.replace(node, b"(" + self.text(node.operand) + b")")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            before, *others = COMPARISONS.get(type(op), ("",))
            for after in others:
                self.between(left, right, before, after)
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        before, after = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self.between(node.values[0], node.values[1], before, after)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        for branch in (node.body, node.orelse):
            if not isinstance(branch, ast.JoinedStr) and not isinstance(getattr(branch, "value", 0), str):
                self.replace(node, b"(" + self.text(branch) + b")")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.replace(test, b"True")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, int):
            self.replace(node, str(value + 1))
            if value > 0:
                self.replace(node, str(value - 1))
        elif isinstance(value, float):
            self.replace(node, repr(2 * value) if value else "1.0")

    def visit_Name(self, node: ast.Name) -> None:
        other = OTHER_NAMES.get(node.id)
        if isinstance(node.ctx, ast.Load) and other and other in self.names:
            self.replace(node, other)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        end = self.span(node)[1]
        if node.attr in OTHER_NAMES:
            self.add(end - len(node.attr.encode()), end, OTHER_NAMES[node.attr])
        if node.attr == "before":
            self.replace(node, self.text(node.value))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        func = node.func
        name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
        if name.endswith("Error") or name in ("Field", "by_name", "Lazy", "TypeVar", "join"):
            return
        function = not isinstance(func, ast.Attribute) or getattr(func.value, "id", "") in NAMESPACES
        if name in LEFT_OUT.split() and (node.args or not function):
            inner = node.args[0] if function else func.value  # type: ignore[union-attr]
            self.replace(node, b"(" + self.text(inner) + b")")
        if isinstance(func, ast.Name) and name in OTHER_NAMES and name not in self.names:
            self.replace(func, OTHER_NAMES[name])
        if name in ("where", "atan2", "maximum") and function and len(node.args) >= 2:
            one, other = node.args[-2:]
            self.add(self.span(one)[0], self.span(other)[1], self.text(other) + b", " + self.text(one))
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is None or keyword.arg in NO_MATHEMATICS.split():
                continue
            before = [*node.args, *(k.value for k in node.keywords[:place])]
            end = self.span(keyword)[1]
            if before and len(node.args) + len(node.keywords) > 1:
                self.add(self.span(before[-1])[1], end, b"")
        self.visit(func)
        for argument in node.args:
            if name in OF_SHAPE.split() and isinstance(argument, ast.Constant | ast.UnaryOp):
                continue
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in NO_MATHEMATICS.split() and not (
                name in OF_SHAPE.split() or keyword.arg in ("dim", "dim1", "dim2", "axis")
            ):
                self.visit(keyword.value)


# --- the tests ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Test:
    """A test, the processor's seconds that it takes, and which lines of which modules it runs."""

    id: str
    seconds: float
    lines: dict[str, set[int]]

    @property
    def file(self) -> str:
        return self.id.partition("::")[0]


class _Watch:
    """A pytest plugin that notes which lines run, for `seen`."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules
        self.tests: dict[str, Any] = {}
        self.failed: list[str] = []
        self.of_fixture: dict[int, dict[str, set[int]]] = {}
        self.of_file: dict[str, dict[str, set[int]]] = {}
        self.lines: dict[str, set[int]] = defaultdict(set)
        setattr(builtins, PROBE, lambda module, line: self.lines[module].add(line))
        _load([_Loader(module, _probed((ROOT / module).read_bytes(), module)) for module in modules])

    @contextmanager
    def watched(self) -> Iterator[dict[str, set[int]]]:
        outer, self.lines = self.lines, defaultdict(set)
        try:
            yield self.lines
        finally:
            own = self.lines
            self.lines = outer
            for module, lines in own.items():
                outer[module] |= lines

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: Any) -> Iterator[None]:
        with self.watched() as lines:
            result = yield
            file = collector.nodeid.partition("::")[0]
            self.of_file[file] = _joined([self.of_file.get(file, {}), lines])
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        with self.watched() as lines:
            result = yield
            self.of_fixture[id(fixturedef)] = _joined([self.of_fixture.get(id(fixturedef), {}), lines])
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Iterator[None]:
        _forget(self.modules)
        began = time.process_time()  # others may use the machine too
        with self.watched() as lines:
            result = yield
            self.tests[item.nodeid] = (item, time.process_time() - began, lines)
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def result(self) -> list[Test]:
        tests = []
        for name, (item, seconds, lines) in self.tests.items():
            fixtures = [one for many in item._fixtureinfo.name2fixturedefs.values() for one in many]
            parts = [lines, self.of_file.get(name.partition("::")[0], {})]
            parts += [self.of_fixture.get(id(fixture), {}) for fixture in fixtures]
            tests.append(Test(name, seconds, _joined(parts)))
        return tests


def _joined(parts: list[dict[str, set[int]]]) -> dict[str, set[int]]:
    total: dict[str, set[int]] = defaultdict(set)
    for part in parts:
        for module, lines in part.items():
            total[module] |= lines
    return total


def _forget(modules: list[str]) -> None:
    """Empty the caches of the modules: what one test has computed another one uses, and runs no line for it."""
    for module in modules:
        for value in vars(sys.modules[_dotted(module)]).values():
            if isinstance(value, functools._lru_cache_wrapper):
                value.cache_clear()


PROBE = "__gendiff_line__"


def _probed(source: bytes, module: str) -> Any:
    """The code of a file in which every statement of a function first says that it is run."""
    tree = ast.parse(source)
    blocks = {}
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        for node in ast.walk(function):
            found = [getattr(node, field, None) for field in ("body", "orelse", "finalbody")]
            blocks |= {id(block): block for block in found if isinstance(block, list)}
    for block in blocks.values():
        probes = [ast.parse(f"{PROBE}({module!r}, {statement.lineno})").body[0] for statement in block]
        block[:] = [each for pair in zip(probes, block, strict=True) for each in pair]
    return compile(ast.fix_missing_locations(tree), str(ROOT / module), "exec", dont_inherit=True)


def _dotted(module: str) -> str:
    return module.removeprefix("plugins/").removesuffix(".py").replace("/", ".")


class _Only:
    """A pytest plugin that runs the chosen tests, each file's fastest first."""

    def __init__(self, tests: list[Test]) -> None:
        self.order = {test.id: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
        )


def _pytest(files: list[str], *plugins: Any) -> int:
    # As they are compiled, and without the search for garbage at the end: a session then takes 0.2 s, otherwise 0.9 s.
    options = "-q --no-header --assert=plain -p no:cacheprovider -p no:unraisableexception -p no:threadexception"
    places = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    return int(pytest.main([*options.split(" "), *places, *files], plugins=list(plugins)))


WARM = (
    "torch torch.nn.parallel torch.distributed torch.utils.data numpy scipy.fft scipy.optimize scipy.special scipy.stats "
    "pydantic pluggy matplotlib.figure PIL.Image rich.console typer.testing safetensors.torch einops jinja2 tomli_w "
    "pytorch_fid.fid_score diffusers.schedulers hatchling.builders.wheel"
)


def warm() -> None:
    """Import what all tests import, but nothing of gendiff."""
    paths = [ROOT, ROOT / "plugins", ROOT / "cli", ROOT / "tests", ROOT / "tests" / "campaigns"]
    sys.path[:0] = [str(path) for path in paths]
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths[:3]), os.environ.get("PYTHONPATH", "")])
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.gettempdir()
    for name in WARM.split():
        with suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)  # no pool of threads that a fork would lose,
    torch.set_num_threads = lambda n: None  # and none that waits for a core that another change has: four times as slow
    gc.collect()
    gc.freeze()  # what is here stays
    assert "gendiff" not in sys.modules


# --- processes ----------------------------------------------------------------------------------------------------------


def _forked(work: Callable[[], int], limit: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        signal.alarm(int(limit))
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        code = work()
    finally:
        os._exit(code)


def _each(
    tasks: list[tuple[Callable[[], int], float]], jobs: int, done: Callable[[int, int, float], None], until: float
) -> None:
    """Run tasks, each with its limit of seconds, so many at a time.

    ``done`` gets the number of each, its exit code and the seconds of the processor that it took.
    """
    waiting, running = list(enumerate(tasks))[::-1], {}
    while waiting or running:
        while waiting and len(running) < jobs and time.monotonic() < until:
            number, task = waiting.pop()
            running[_forked(*task)] = number
        if not running:
            return
        child, status, used = os.wait4(-1, 0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # what it has started
        done(running.pop(child), os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime)


def seen(files: list[str], modules: list[str], jobs: int) -> dict[str, list[Test]]:
    """The tests of each file, seen in a run of the unchanged code; raises `SystemExit` where one fails."""
    known: dict[str, list[Test]] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:

        def watch(file: str) -> int:
            plugin, classes = _Watch(modules), CLASSES.get(Path(file).stem, "").split()
            code = _pytest([f"{file}::{name}" for name in classes] or [file], plugin)
            (Path(folder) / Path(file).stem).write_bytes(pickle.dumps((plugin.failed, plugin.result())))
            return code

        def done(number: int, code: int, _: float) -> None:
            file = files[number]
            result = Path(folder) / Path(file).stem
            if not result.is_file():
                raise SystemExit(f"{file}: the tests of the unchanged code ended with {code}")
            bad, known[file] = pickle.loads(result.read_bytes())
            failed.extend(bad)
            seconds = sum(test.seconds for test in known[file])
            print(f"{file}: {len(known[file])} tests, {seconds:.0f} s", file=sys.stderr, flush=True)

        _each([(functools.partial(watch, file), 1800.0) for file in files], jobs, done, float("inf"))
    if failed:
        raise SystemExit("these tests fail without any change:\n" + "\n".join(failed))
    return known


def tests_of(mutant: Mutant, files: list[str], known: dict[str, list[Test]]) -> list[Test]:
    """Those that run the changed line, the fastest first, each file together, up to `LONGEST` seconds."""
    every = [test for file in files for test in known[file]]
    if not mutant.imported:
        every = [test for test in every if mutant.line in test.lines.get(mutant.module, ())]
    chosen, total = [], 0.0
    for test in sorted(every, key=lambda test: test.seconds):
        total += test.seconds
        if chosen and total > LONGEST:
            break
        chosen.append(test)
    cost: dict[str, float] = defaultdict(float)
    for test in chosen:
        cost[test.file] += test.seconds
    return sorted(chosen, key=lambda test: (cost[test.file], test.file, test.seconds))


class _Loader(importlib.machinery.SourceFileLoader):
    """Finds one module and gives it other code."""

    def __init__(self, module: str, code: Any) -> None:
        super().__init__(_dotted(module), str(ROOT / module))
        self.code = code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return self.code


def _load(loaders: list[_Loader]) -> None:
    """Import them now, before pytest imports plugins in its own way; all are there when one imports another."""
    sys.meta_path[:0] = loaders  # type: ignore[arg-type]
    for loader in loaders:
        importlib.import_module(loader.name)


def _run(mutant: Mutant, tests: list[Test]) -> int:
    _load([_Loader(mutant.module, compile(mutant.source, str(ROOT / mutant.module), "exec", dont_inherit=True))])
    os.chdir(tempfile.mkdtemp())
    files = list(dict.fromkeys(test.file for test in tests))
    return _pytest(["-x", *(str(ROOT / file) for file in files)], _Only(tests))


# --- the campaign -------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the changes to one module."""

    every: int = 0
    tried: int = 0
    noticed: int = 0
    equivalent: int = 0
    seconds: float = 0.0  # of the processor

    @property
    def share(self) -> float:
        return self.noticed / self.tried if self.tried else 1.0


def equivalents(path: Path = EQUIVALENT) -> dict[tuple[str, str], str]:
    """The reason by module and change."""
    rows = tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", [])
    return {(row["module"], change): row["reason"] for row in rows for change in row["changes"]}


def chosen(module: str, count: int | None, seed: int, grep: str = "") -> list[Mutant]:
    """The changes to a module, or so many of them: in an order that depends on the seed and the module alone."""
    every = mutants(
        module, (ROOT / module).read_bytes(), set(MATHEMATICS[module].split()) if module in MATHEMATICS else None
    )
    if grep:
        return [mutant for mutant in every if grep in mutant.change]
    random.Random(f"{seed} {module}").shuffle(every)
    return every[:count]


def main(argv: list[str] | None = None) -> int:
    """Run a campaign; returns its exit code."""
    files = table()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modules", nargs="+", default=list(files), choices=list(files), metavar="FILE")
    parser.add_argument("--count", type=int, default=30, help="changes to each module")
    parser.add_argument("--all", action="store_true", help="every change")
    parser.add_argument("--grep", default="", help="the changes whose text holds this")
    parser.add_argument("--seed", type=int, default=0, help="another sample")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing after so long")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    options = parser.parse_args(argv)
    until = time.monotonic() + 60 * options.minutes
    warm()
    known_equivalents = equivalents()
    os.chdir(ROOT)
    known = seen(sorted({file for module in options.modules for file in files[module]}), options.modules, options.jobs)
    tallies = {module: Tally() for module in options.modules}
    turns: list[tuple[int, Mutant]] = []
    for module in options.modules:
        for mutant in chosen(module, None if options.all else options.count, options.seed, options.grep):
            tallies[module].every += 1
            if (module, mutant.change) in known_equivalents:
                tallies[module].equivalent += 1
            else:
                turns.append((tallies[module].every, mutant))
    turns.sort(key=lambda turn: turn[0])  # one of each module after the other: where time is over, all have had some
    tasks = [(mutant, tests_of(mutant, files[mutant.module], known)) for _, mutant in turns]

    def done(number: int, code: int, seconds: float) -> None:
        mutant, tests = tasks[number]
        tally = tallies[mutant.module]
        tally.tried += 1
        tally.seconds += seconds
        if tests and code not in (0, 5):
            tally.noticed += 1
            if code == LATE:  # an endless loop, or a machine that is busy with other things
                print(f"NO END {mutant.module}:{mutant.line}: {mutant.change}", flush=True)
        else:
            why = f"{len(tests)} tests" if tests else "no test runs it"
            print(f"NOT NOTICED {mutant.module}:{mutant.line} ({why}): {mutant.change}", flush=True)

    work = [
        (functools.partial(_run, *task) if task[1] else (lambda: 0), 60 + 10 * sum(test.seconds for test in task[1]))
        for task in tasks
    ]
    _each(work, options.jobs, done, until)
    print("\n| module | changes | equivalent | tried | noticed | share | minutes |\n|---|---|---|---|---|---|---|")
    for module, tally in tallies.items():
        share = f"{tally.share:.1%}" if tally.tried else "-"
        row = (module, tally.every, tally.equivalent, tally.tried, tally.noticed, share, f"{tally.seconds / 60:.1f}")
        print("|", *(f"{value} |" for value in row))
    left = sum(tally.every - tally.equivalent - tally.tried for tally in tallies.values())
    if left:
        print(f"{left} changes were not tried: the time was over")
    return NOT_ENOUGH if any(tally.share < ENOUGH for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
