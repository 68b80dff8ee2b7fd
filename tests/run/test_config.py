"""Configuration: layers, where each value came from, and what is said of a wrong one."""

from __future__ import annotations

import itertools
import time
import tomllib

import pytest
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff.errors import ConfigError, GendiffError, PluginError
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.storage import reading


def test_what_only_the_process_inside_has_is_given_to_it():
    said = [Layer.at("--process", "process", "reversed"), Layer.at("--schedule", "velocity.schedule", "log")]
    with pytest.raises(ConfigError) as refused:
        resolve(said)
    form = "reversed:process=blur-diffusion:schedule=log"
    assert refused.value.fix == f"give it to the process inside: --process '{form}'"
    velocity = resolve([Layer.at("--process", "process", form)]).config.velocity
    assert velocity.velocity.schedule.name == "log"
    with pytest.raises(ConfigError, match="has no parameter 'sigma_max'") as other:
        resolve([said[0], Layer.at("--set", "velocity.sigma_max", 3)])
    assert "inside" not in other.value.fix


def layer(origin, toml):
    return Layer(origin, tomllib.loads(toml))


LAYERS = [
    layer("preset p", "[train]\nsteps = 11"),
    layer("file.toml", "[train]\nsteps = 22"),
    Layer.from_assignment("train.steps=33"),
    Layer.at("--steps", "train.steps", 44),
]


@pytest.mark.parametrize("present", itertools.product([False, True], repeat=4))
def test_the_last_layer_wins_and_is_named(present):
    given = list(itertools.compress(LAYERS, present))
    resolved = resolve(given)
    value, origin = 2000, None
    for layer_given in given:
        value, origin = layer_given.table["train"]["steps"], layer_given.origin
    assert resolved.config.train.steps == value
    assert resolved.origins.get("train.steps") == origin


def test_the_command_line_orders_its_layers(tmp_path):
    (tmp_path / "mine.toml").write_text('N = 500\n[train]\nlr = 0.5\nbatch = 7\n[velocity.schedule]\nname = "cubic"\n')
    shown = run(
        *(
            "config",
            "show",
            "--json",
            "--schedule",
            "log:f_max=0.6",
            "--set",
            "train.batch=8",
            "--set",
            "velocity.sigma=1",
        ),
        *("--config", tmp_path / "mine.toml", "--preset", "digits-demo", "--set", "train.batch=9"),
    ).json
    config, origins = shown["config"], shown["origins"]
    assert (config["N"], config["train"]["lr"], config["train"]["batch"], config["train"]["steps"]) == (
        500,
        0.5,
        9,
        1300,
    )
    assert config["velocity"]["schedule"] == {"name": "log", "f_max": 0.6, "f_min": 0.0}
    assert origins["train.steps"] == "preset digits-demo"
    assert origins["N"] == origins["train.lr"] == str(tmp_path / "mine.toml")
    assert origins["train.batch"] == "--set train.batch"
    assert origins["velocity.schedule.name"] == origins["velocity.schedule.f_max"] == "--schedule"
    assert not {"velocity.schedule", "velocity.schedule.f_min", "train.ema"} & origins.keys()


@pytest.mark.parametrize(
    ("layers", "schedule", "origins"),
    [
        # another component inherits nothing
        (["quartic:f_max=0.3", "log"], "log", {"name": "1"}),
        ([{"name": "quartic", "f_max": 0.3}, {"name": "log", "f_min": 0.1}], "log:f_min=0.1", {"name": "1", "f_min": "1"}),
        ([{"f_max": 0.3}, "log"], "log", {"name": "1"}),
        # the same one keeps what is not said again
        (["quartic:f_max=0.3", "quartic:f_min=0.1"], "quartic:f_max=0.3,f_min=0.1", {"name": "1", "f_max": "0", "f_min": "1"}),
        (["log:f_max=0.3", {"f_min": 0.1}], "log:f_max=0.3,f_min=0.1", {"name": "0", "f_max": "0", "f_min": "1"}),
        ([{"f_max": 0.3}, {"f_min": 0.1}], "quartic:f_max=0.3,f_min=0.1", {"f_max": "0", "f_min": "1"}),
        (["log:f_max=0.3", {"f_max": 0.4}], "log:f_max=0.4", {"name": "0", "f_max": "1"}),
    ],
)  # fmt: skip
def test_a_component_that_changes_drops_the_parameters_of_the_old_one(layers, schedule, origins):
    resolved = resolve([Layer.at(str(k), "velocity.schedule", value) for k, value in enumerate(layers)])
    assert resolved.config.velocity.schedule.spec == schedule
    assert resolved.origins == {f"velocity.schedule.{key}": origin for key, origin in origins.items()}


def test_another_velocity_drops_its_schedules():
    layers = [Layer.at("a", "velocity.schedule", "log"), Layer.at("b", "velocity", "fine-to-coarse")]
    assert resolve(layers).config.velocity.spec == "fine-to-coarse"
    assert resolve(layers).origins == {"velocity.name": "b"}
    assert resolve(layers[::-1]).config.velocity.spec == "fine-to-coarse:schedule=log"


def test_a_part_of_a_default_component_may_be_set():
    assert (
        resolve([Layer.from_assignment("train.preview.steps=7")]).config.train.preview.spec == "trig:steps=7,solver=ab2"
    )
    assert resolve([Layer.from_assignment("model.channels=64")]).config.model.spec == "unet:channels=64"
    assert (
        resolve([Layer.from_assignment("velocity.noise.beta_max=0.1")]).config.velocity.noise.spec
        == "linear:beta_max=0.1"
    )


@pytest.mark.parametrize("name", [None, *default_registry().presets()])
def test_toml_gives_the_same_configuration_again(name, tmp_path):
    layers = [] if name is None else [Layer.from_file(default_registry().preset(name), name)]
    if str(name).startswith("paper") or str(name).endswith(("-cifar10", "-mnist")):  # their data are files
        layers.append(Layer.at("--set", "data.path", str(tmp_path)))
    config = resolve(layers).config
    file = tmp_path / "config.toml"
    file.write_text(config.toml())
    assert resolve([Layer.from_file(file)]).config == config
    assert Config.model_validate(config.table()) == config
    assert resolve([]).config == Config()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    schedule=st.sampled_from(default_registry().names("schedule")),
    objective=st.sampled_from(default_registry().names("objective")),
    path=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    lr=st.floats(1e-300, 1e300),
    seed=st.integers(0, 2**62),
)
def test_any_configuration_survives_toml(schedule, objective, path, lr, seed):
    made = Config.model_validate({"velocity": {"name": "blur", "schedule": schedule}, "objective": objective,
                                  "data": {"name": "folder", "path": path}, "train": {"lr": lr, "seed": seed}})  # fmt: skip
    assert resolve([Layer("file", tomllib.loads(made.toml()))]).config == made


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("stepz = 1", ["the configuration has no parameter 'stepz' (from {})"]),
        ("[trian]\nsteps = 1", ["has no parameter 'trian' (from {})", "did you mean 'train'?"]),
        ("[train]\nstpes = 1", ["section 'train' has no parameter 'stpes' (from {})", "did you mean 'steps'?", "batch, "]),
        ("[train.preview]\nstpes = 1", ["sampler 'trig' has no parameter 'stpes' (from {})", "did you mean 'steps'?"]),
        ("[velocity.schedule]\nf_mx = 1", ["schedule 'quartic' has no parameter 'f_mx' (from {})", "did you mean 'f_max'?"]),
        ("[velocity.schedule]\nf_min = 1", ["f_min = 1 is above f_max = 0.14 (from {})"]),
        ('[velocity.schedule]\nname = "lgo"', ["unknown schedule 'lgo' (from {})", "did you mean 'log'?"]),
        ("velocity = 3", ["velocity = 3: expected a velocity", "(from {})"]),
        ('train = "x"', ["train = 'x'", "(from {})"]),
        ("[train]\nlr = nan", ["section 'train': lr = nan: input should be a finite number (from {})"]),
        ("[train]\nbatch = 0", ["section 'train': batch = 0", "(from {})", "batch: events per optimiser step"]),
        ("N = 1", ["the configuration: N = 1", "greater than or equal to 2 (from {})"]),
        ("N = 1.5", ["N = 1.5", "(from {})"]),
        ('[rotation]\nname = ""', ["which rotation? give a name (from {})"]),
        ('rotation = ":"', ["empty component name in ':' (from {})"]),
        ("[data]\nname = 1979-05-27", ["unknown data '1979-05-27' (from {})"]),
        ("[[model]]\nname = 'unet'", ["(from {})"]),
        ("[velocity]\nname = 'isotropic'\nschedule = 'log'",
     ["'isotropic' has no parameter 'schedule' (from {})", "parameters: noise"]),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_with_the_file(tmp_path, toml, said):
    file = tmp_path / "mine.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as raised:
        resolve([Layer.from_file(default_registry().preset("unet-small"), "preset unet-small"), Layer.from_file(file)])
    for words in said:
        assert words.format(file) in str(raised.value)


@pytest.mark.parametrize("assignment", ["foo", "=1", "a..b=1", " =1", ".=1", ""])
def test_an_assignment_that_cannot_be_read(assignment):
    with pytest.raises(ConfigError, match=r"--set section\.key=value"):
        Layer.from_assignment(assignment)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [("train.lr=1e-4", 1e-4), ("train.lr = 1e-4", 1e-4), ("train.compile=true", True), ("train.precision=bf16", "bf16"),
     ("train.precision='bf16'", "bf16"), ("train.workers=2", 2)],
)  # fmt: skip
def test_an_assignment(assignment, value):
    config = resolve([Layer.from_assignment(assignment)]).config
    assert getattr(config.train, assignment.partition("=")[0].strip().removeprefix("train.")) == value


@pytest.mark.parametrize(
    "content",
    [b"a = [", b"\xff\xfe\0", b"\0" * 100, b"a" * (reading.TOML + 1), b"a = " + b"[" * 50_000, b"a.b = 1\na = 2", b"[a]\n[a]",
     b"a" + b".a" * 3000 + b" = 1", b"N = " + b"9" * 5000, b"x = '" + b"y" * 100_000 + b"'", "ключ".encode("cp1251")],
    ids=range(11),
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_refused_at_once(tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    start = time.process_time()
    done = run("config", "show", "--config", file)
    assert time.process_time() - start < 5
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert len(done.err) < 5000
    assert len(done.err.splitlines()) < 20


@pytest.mark.parametrize(
    "assignment", ["a" + ".a" * 5000 + "=1", "N=" + "[" * 5000, "model=" + "x" * 50_000, "N=" + "9" * 4000]
)
def test_an_assignment_without_end_is_refused_at_once(assignment):
    done = run("config", "show", "--set", assignment)
    assert (done.code, done.err.startswith("error: "), len(done.err) < 5000) == (2, True, True)


def test_a_file_that_cannot_be_read(tmp_path):

    for path in (tmp_path, tmp_path / "missing.toml", tmp_path / "missing" / "x.toml"):
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            Layer.from_file(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        Layer.from_file(type(tmp_path)("/dev/zero"))


def test_later_errors_name_the_origin_too():
    resolved = resolve([Layer.at("--model", "model", "unet:attention=[8]"), Layer.at("--rotation", "rotation", "dct")])
    with pytest.raises(GendiffError, match=r"\(from --model\)"), resolved.locating():
        resolved.config.model.build((1, 8, 8))
    with pytest.raises(GendiffError) as raised, resolve([]).locating():
        resolved.config.model.build((1, 8, 8))
    assert raised.value.where == ""


@pytest.mark.parametrize("preview", ["lgo", "ddim:stps=1", "ddim:steps=0"])
def test_the_two_samplers_are_not_confused(preview):
    wrong, right = Layer.from_assignment(f"train.preview={preview}"), Layer.at("--sampler", "sampler", "ddim")
    for layers in ([wrong, right], [right, wrong]):
        with pytest.raises(ConfigError) as raised:
            resolve(layers)
        assert raised.value.where == "--set train.preview"


class TestNamedProcess:
    """`process` stands for a rotation and a velocity."""

    def table(self, *layers):
        return resolve(layers).config.table()

    def test_it_is_its_parts(self):
        named = self.table(Layer.at("--process", "process", "blur-diffusion:schedule=log,sigma=0.6"))
        parts = [
            Layer.at("--rotation", "rotation", "dct"),
            Layer.at("--velocity", "velocity", "blur:schedule=log,sigma=0.6"),
        ]
        assert named == self.table(*parts)
        assert "process" not in named

    def test_what_is_said_beside_it_and_after_it_wins(self):
        beside = self.table(Layer("file", {"process": "blur-diffusion", "rotation": "haar"}))
        assert (beside["rotation"]["name"], beside["velocity"]["name"]) == ("haar", "blur")
        after = self.table(
            Layer.at("--process", "process", {"name": "blur-diffusion", "sigma": 0.7}),
            Layer.at("--schedule", "velocity.schedule", "cubic"),
        )
        assert after["velocity"]["schedule"]["name"] == "cubic"
        assert after["velocity"]["sigma"] == 0.7
        before = self.table(Layer.at("x", "rotation", "haar"), Layer.at("--process", "process", "ddpm"))
        assert (before["rotation"]["name"], before["velocity"]["name"]) == ("identity", "isotropic")

    def test_what_it_cannot_use_is_refused_with_its_origin(self):
        with pytest.raises(ConfigError, match="velocity 'isotropic' has no parameter 'schedule'") as raised:
            resolve([Layer.at("--process", "process", "ddpm"), Layer.at("--schedule", "velocity.schedule", "log")])
        assert raised.value.where == "--schedule"
        with pytest.raises(ConfigError, match="unknown process 'dppm'") as raised:
            resolve([Layer.at("--process", "process", "dppm")])
        assert raised.value.where == "--process"


class TestLists:
    """Settings that are several components."""

    def test_names_specs_and_tables_are_the_same(self):
        several = ["spectrum:bands=3", {"name": "moments"}]
        config = resolve([Layer.at("--metric", "train.metrics", several)]).config
        assert [metric.spec for metric in config.train.metrics] == ["spectrum:bands=3", "moments"]
        again = resolve([Layer("file", tomllib.loads(config.toml()))]).config
        assert again == config
        assert resolve([]).config.table()["train"].get("metrics", []) == []

    def test_an_error_names_the_option(self):
        for wrong in (["spectru"], ["spectrum:bnds=1"], ["spectrum", "moments:x=1"]):
            with pytest.raises(ConfigError) as raised:
                resolve([Layer.at("--metric", "train.metrics", wrong)])
            assert raised.value.where == "--metric"


def test_default_numbers_of_sampling_steps_are_at_most_n():
    long, short = resolve([]).config, resolve([Layer.from_assignment("N=20")]).config
    assert (long.sampler.steps, long.train.preview.steps) == (50, 50)
    assert (short.sampler.steps, short.train.preview.steps) == (20, 20)
    given = resolve([Layer.from_assignment("N=20"), Layer.at("--sampler", "sampler", "ddim:steps=30")]).config
    assert (given.sampler.steps, given.train.preview.steps) == (30, 20)  # refused when it meets the process
    some = resolve([Layer.from_assignment("N=20"), Layer.from_assignment("sampler.solver=heun")]).config
    assert (some.sampler.solver, some.sampler.steps) == ("heun", 20)


@pytest.mark.parametrize("flag", [("--velocity", "velocity", "isotropic"), ("--process", "process", "ddpm")])
def test_what_a_command_sets_is_not_lost_to_what_it_names(flag):
    origin, path, value = flag
    layers = [Layer.from_assignment("velocity.noise.beta_max=0.05"), Layer.at(origin, path, value)]
    with pytest.raises(ConfigError, match=r"'--set velocity\.noise\.beta_max' would have no effect") as caught:
        resolve(layers)
    assert caught.value.where == origin
    preset = Layer("preset p", {"velocity": {"noise": {"beta_max": 0.05}}})
    assert resolve([preset, layers[1]]).config.velocity.name == "isotropic"  # a preset is there to be changed
    same = resolve([layers[0], Layer.at("--velocity", "velocity", "blur")])
    assert same.config.velocity.noise.beta_max == 0.05


def test_many_plugin_files_are_one_screen(tmp_path):
    names = [f"{number}.py" for number in range(30)]
    for name in names:
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "c.toml").write_text(f"plugins = {names}")
    with pytest.raises(PluginError) as caught:
        Layer.from_file(tmp_path / "c.toml")
    assert len(caught.value.lines) < 20
    assert "and 20 more" in caught.value.details
    assert all(name in caught.value.fix for name in names)  # a command is whole
