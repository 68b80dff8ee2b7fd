"""Components: a spec, a table and an instance say the same, and whatever is wrong with one is said."""

from __future__ import annotations

import tomllib
import types
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
import tomli_w
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from processes import component
from pydantic import Field, ValidationError

from gendiff import BlurSchedule, Data, NoiseSchedule, Rotation, Sampler, Velocity
from gendiff.component import Component, by_name, parse_spec, parse_value
from gendiff.errors import ConfigError, GendiffError
from gendiff.names import resolving_with
from gendiff.plugin.registry import default_registry

ENTRIES = default_registry().entries()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "a,b",
        '"',
        "'",
        "it's",
        "[x,y]",
        "{a=1,b=2}",
        "a=b",
        " padded ",
        "1",
        "true",
        "1e3",
        "2026-01-31",
        "/d/[x",
        "]",
        "\\",
    ]
)


class Everything(Component):
    """One parameter of every sort."""

    kind = "thing"
    name = "everything"

    text: str = "x"
    texts: tuple[str, ...] = ("a", "b")
    path: Path = Path("here")
    number: float = 1.0
    flag: bool = False
    count: int | None = None
    schedule: BlurSchedule = by_name("log:f_max=0.5", "nested")
    inner: Data = by_name("digits", "nested, with a text of its own")


def values(annotation, metadata=()):
    """Values that a field may take, from its type and bounds."""
    low = {
        key: getattr(m, key)
        for m in metadata
        for key in ("ge", "gt", "le", "lt", "multiple_of", "min_length")
        if hasattr(m, key)
    }
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(args[0], [m for a in args[1:] for m in getattr(a, "metadata", [a])])
    if origin in (Union, types.UnionType):
        return st.one_of([values(arg, metadata) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), min_size=low.get("min_length", 0), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if annotation is float:
        return st.floats(low.get("ge", low.get("gt")), low.get("le", low.get("lt")), exclude_min="gt" in low,
                         exclude_max="lt" in low, allow_nan=False, allow_infinity=False)  # fmt: skip
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        step = low.get("multiple_of", 1)
        first = low.get("ge", low.get("gt", -1) + 1)
        return st.integers(-(-first // step), low.get("le", 10**6) // step).map(lambda n: n * step)
    if annotation is Path:
        return TEXT.filter(bool).map(Path)
    if annotation is type(None):
        return st.none()
    if issubclass(annotation, Component):
        of_kind = {
            n: default_registry().component_class(annotation.kind, n) for n in default_registry().names(annotation.kind)
        }
        names = [n for n, cls in of_kind.items() if not any(info.is_required() for info in cls.model_fields.values())]
        return st.sampled_from(names).map(lambda name: component(annotation, name))
    assert annotation is str, annotation
    return TEXT


def interface(cls):
    return next(base for base in cls.__mro__ if base.kind and not base.name)


def assert_round_trip(made, base):
    for written in (made.spec, made.table(), tomllib.loads(tomli_w.dumps(made.table())), made):
        again = component(base, written)
        assert type(again) is type(made)
        assert again == made
        assert hash(again) == hash(made)
    assert component(base, made.spec).spec == made.spec


#: What reads a file at its path: tests of each hold it to the same.
READ = {("model", "adm"), ("model", "diffusers"), ("model", "edm"), ("model", "module"), ("latent", "diffusers")}
PLAIN = [entry for entry in ENTRIES if (entry.kind, entry.name) not in READ]


@pytest.mark.parametrize("entry", PLAIN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_spec_and_table_give_every_component_again(entry):
    cls = entry.load()
    fields = {name: values(info.annotation, info.metadata) for name, info in cls.model_fields.items()}
    required = {name: fields[name] for name, info in cls.model_fields.items() if info.is_required()}

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(st.fixed_dictionaries(required, optional={n: s for n, s in fields.items() if n not in required}))
    def check(parameters):
        try:
            made = cls(**parameters)
        except ConfigError as error:
            # A limit that another parameter sets, blamed on one of the two: sigma_min, and how many weights there are.
            assume(" above " not in error.what and "they part" not in error.what)
            cause = error.__cause__  # a rule between parameters is no parameter's own
            assume(not isinstance(cause, ValidationError) or any(part["loc"] for part in cause.errors()))
            raise
        assert_round_trip(made, interface(cls))

    check()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXT, texts=st.lists(TEXT, max_size=3), path=TEXT.filter(bool), inner=TEXT.filter(bool),
       number=st.floats(allow_nan=False, allow_infinity=False), flag=st.booleans(), f_max=st.floats(0, 1e4))  # fmt: skip
def test_text_of_any_kind_survives_a_spec(text, texts, path, inner, number, flag, f_max):
    schedule, data = component(BlurSchedule, {"name": "log", "f_max": f_max}), {"name": "folder", "path": inner}
    registry = default_registry().component_class
    with resolving_with(lambda kind, name: Everything if kind == "thing" else registry(kind, name)):
        made = Everything(text=text, texts=texts, path=path, number=number, flag=flag, schedule=schedule, inner=data)
        written = {"name": "everything", **parse_spec(made.spec)}
        assert Everything.model_validate(made.spec) == made
        assert Everything.model_validate(written) == made
        assert Everything.model_validate(tomllib.loads(tomli_w.dumps(made.table()))) == made


@pytest.mark.parametrize(
    ("spec", "table"),
    [
        ("log", {"name": "log"}),
        ("log:", {"name": "log"}),
        (" log : f_max = 0.3 , f_min=1e-2 ", {"name": "log", "f_max": 0.3, "f_min": 0.01}),
        ("x:a=[1,2],b=true", {"name": "x", "a": [1, 2], "b": True}),
        ("x:a=[[1,2],[3]],b=1", {"name": "x", "a": [[1, 2], [3]], "b": 1}),
        ('x:a="1,2]",b=1', {"name": "x", "a": "1,2]", "b": 1}),
        (r'x:a="say \"a,b\"",b=1', {"name": "x", "a": 'say "a,b"', "b": 1}),
        ("x:a='1,2',b=1", {"name": "x", "a": "1,2", "b": 1}),
        ('x:s={name="log", f_max=0.3},b=1', {"name": "x", "s": {"name": "log", "f_max": 0.3}, "b": 1}),
        ("folder:path=C:/a b/c:d,size=8", {"name": "folder", "path": "C:/a b/c:d", "size": 8}),
        ("folder:path=2026-01-31", {"name": "folder", "path": "2026-01-31"}),
        ("x:a=b=c", {"name": "x", "a": "b=c"}),
        ("x:a=", {"name": "x", "a": ""}),
    ],
)
def test_what_a_spec_means(spec, table):
    assert parse_spec(spec) == table


@pytest.mark.parametrize(
    "spec", ["", " ", ":f_max=1", "log:f_max", "log:0.3", "log:=1", "log:a=1,,b=2", "log:a=1,a=2", "log:name=x"]
)
def test_a_spec_that_cannot_be_read_says_how_one_is_written(spec):
    with pytest.raises(ConfigError) as raised:
        parse_spec(spec)
    assert raised.value.fix


def test_a_value_nested_without_end_is_text():
    assert parse_value("[" * 100_000) == "[" * 100_000


def test_an_unbalanced_bracket_is_not_swallowed():
    with pytest.raises(ConfigError, match=r"0\.3\]"):
        component(BlurSchedule, "log:f_max=0.3]")


@pytest.mark.parametrize(
    "nested",
    [
        "log:f_max=0.3",
        {"name": "log", "f_max": 0.3},
        lambda: component(BlurSchedule, "log:f_max=0.3"),
    ],
)
def test_a_nested_component_is_a_spec_a_table_or_an_instance(nested):
    velocity = component(Velocity, {"name": "blur", "schedule": nested() if callable(nested) else nested})
    assert velocity.schedule == component(BlurSchedule, "log:f_max=0.3")
    assert component(Velocity, 'blur:schedule="log:f_max=0.3"') == velocity
    assert velocity.spec == 'blur:schedule="log:f_max=0.3"'


def test_a_table_without_a_name_takes_the_default_of_its_field():
    assert component(Velocity, {"name": "blur", "schedule": {"f_max": 0.3}}).schedule.spec == "quartic:f_max=0.3"
    with resolving_with(lambda kind, name: default_registry().component_class(kind, name)):
        assert Everything(schedule={"f_min": 0.1}).schedule.spec == "log:f_max=0.5,f_min=0.1"


@pytest.mark.parametrize(
    ("base", "given", "subject", "said"),
    [
        (BlurSchedule, "log:f_mx=1", "schedule.f_mx", ["schedule 'log' has no parameter 'f_mx'", "f_max, f_min", "'f_max'?"]),
        (Data, "digits:size=32", "data.size", ["data 'digits' has no parameter 'size'", "its parameters: flip", "leave it out"]),
        (BlurSchedule, "log:f_max=abc", "schedule.f_max", ["f_max = 'abc'", "valid number", "f_max: largest f"]),
        (BlurSchedule, "log:f_max=-1", "schedule.f_max", ["f_max = -1", "greater than or equal to 0"]),
        (BlurSchedule, "log:f_max=nan", "schedule.f_max", ["f_max = nan", "finite"]),
        (BlurSchedule, "log:f_max=inf", "schedule.f_max", ["f_max = inf", "less than or equal|finite"]),
        (BlurSchedule, "log:f_min=0.5", "schedule", ["schedule 'log': f_min = 0.5 is above f_max = 0.14"]),
        (Velocity, 'blur:schedule="log:f_min=0.5"', "velocity.schedule", ["schedule 'log': f_min = 0.5 is above"]),
        (Velocity, 'blur:schedule="log:f_mx=0.5"', "velocity.schedule.f_mx", ["schedule 'log' has no parameter"]),
        (Velocity, "blur:noise=lgo", "velocity.noise.name", ["unknown noise 'lgo'"]),
        (Velocity, "blur:noise=3", "velocity.noise", ["velocity 'blur': noise = 3", "a name, a spec"]),
        (Data, "folder", "data.path", ["data 'folder' needs 'path'", "path: the folder", "write --data folder:path=..."]),
        (Data, "dead-leaves:size=[1,2,3]", "data.size", ["data 'dead-leaves'", "n x n"]),
        (Rotation, "DCT", "rotation.name", ["unknown rotation 'DCT'", "did you mean 'dct'?"]),
        (Sampler, "ddim:steps=0", "sampler.steps", ["steps = 0"]),
        (Sampler, "ddim:eta=2", "sampler.eta", ["eta = 2"]),
        (NoiseSchedule, {"name": 3}, "noise.name", ["unknown noise '3'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_component_is_said(base, given, subject, said):
    with pytest.raises(ConfigError) as raised:
        component(base, given)
    assert raised.value.subject == subject
    for words in said:
        assert any(word in str(raised.value) for word in words.split("|")), str(raised.value)


@pytest.mark.parametrize("given", [3, None, [], object(), {}, {"f_max": 1.0}])
def test_what_is_no_component_is_refused(given):
    with pytest.raises((ValidationError, GendiffError), match="name"):
        component(BlurSchedule, given)


def test_an_instance_of_another_kind_is_refused():
    with pytest.raises(ValidationError, match="expected a velocity"):
        component(Velocity, component(BlurSchedule, "log"))


def test_built_in_python_the_errors_are_the_same():
    Log = default_registry().component_class("schedule", "log")
    for parameters in ({"f_max": -1}, {"f_min": 1.0}, {"f_mx": 1}):
        with pytest.raises(ConfigError, match="schedule 'log'"):
            Log(**parameters)


def test_components_are_equal_by_their_parameters_and_frozen():
    Log = default_registry().component_class("schedule", "log")
    assert Log() == Log(f_max=0.14)
    assert Log() != Log(f_max=0.15)
    assert Log() != default_registry().component_class("schedule", "quartic")()
    assert Log() != "log"
    assert len({Log(), Log(f_max=0.14), Log(f_max=0.15)}) == 2
    assert component(BlurSchedule, made := Log()) is made
    with pytest.raises(ValidationError, match="frozen"):
        Log().f_max = 1.0


def test_an_optional_component_may_be_absent():
    class Holder(Everything):
        name = "holder"
        maybe: BlurSchedule | None = Field(None, description="none, or one")

    assert Holder(maybe=None).maybe is None
    assert Holder(maybe="log").maybe == component(BlurSchedule, "log")


# --- paths and sizes ----------------------------------------------------------------------------------------------------


def with_paths() -> list[tuple[str, str, str]]:
    """Every component with a field that is a path."""
    return [
        (entry.kind, entry.name, field)
        for entry in ENTRIES
        for field, info in entry.load().model_fields.items()
        if Path in (info.annotation, *get_args(info.annotation))
    ]


@pytest.mark.parametrize(("kind", "name", "field"), with_paths())
def test_an_empty_path_is_not_the_working_folder(kind, name, field):
    cls = default_registry().component_class(kind, name)
    for given_ in (f"{name}:{field}=", f"{name}:{field}=''", {"name": name, field: ""}):
        with pytest.raises(ConfigError, match=f"{kind} '{name}': the path '{field}' is empty") as caught:
            cls.model_validate(given_)
        assert caught.value.subject == f"{kind}.{field}"
    if field == "path" and kind not in ("model", "latent"):  # which read what lies there
        assert getattr(cls.model_validate(f"{name}:{field}=."), field) == Path()


def test_there_are_paths():
    assert {"folder", "zip", "npy", "mnist", "cifar10", "lsun", "huggingface", "packed", "inception"} <= {
        name for _, name, _ in with_paths()
    }


@pytest.mark.parametrize("name", ["dead-leaves", "gaussian-field", "folder:path=.,channels=1"])
def test_a_size_is_written_in_any_of_its_forms(name):
    glue = "," if ":" in name else ":"
    specs = [f"{name}{glue}size={size}" for size in ("16x24", "[16,24]", "'[16, 24]'", "'16x24'")]
    assert {component(Data, spec).size for spec in specs} == {(16, 24)}
    assert component(Data, f"{name}{glue}size='16'").size == 16
    for size in ("16x", "x", "16 x 24", "axb", "-1x4", "'[16;24]'"):
        with pytest.raises(
            ConfigError, match=r"write (32, or 32x48|16x24) or \[\d+, \d+\] for height x width"
        ) as caught:
            component(Data, f"{name}{glue}size={size}")
        assert size.strip("'") in caught.value.what


def test_of_several_types_the_fitting_ones_say_what_they_want():
    with pytest.raises(ConfigError) as caught:
        component(Data, "dead-leaves:size=4")
    assert caught.value.what == "data 'dead-leaves': size = 4: input should be greater than or equal to 8"
    with pytest.raises(ConfigError) as caught:
        component(Data, "dead-leaves:size={a=1}")
    assert caught.value.what == (
        "data 'dead-leaves': size = {'a': 1}: input should be a valid integer; or: input should be a list"
    )
