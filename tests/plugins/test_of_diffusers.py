"""Networks of diffusers: they sample as its own loop does, and what cannot be expressed is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from foreign import SCHEDULE, N, chain, dit, pipeline, unet
from gendiff_plugins.models import of_diffusers

from gendiff.condition import Condition
from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.errors import ConfigError, DataError, PluginError
from gendiff.model import Model
from gendiff.run.config import Config
from gendiff.sampler import Sampler, sample

EVENT = (1, 8, 8)


def score(folder, event=EVENT, conditions=None):
    """The network at a folder as a score model, in the process of its scheduler."""
    model = Model("diffusers", path=str(folder))
    config = Config.model_validate({**model.configuration(), "data": {"name": "digits"}})
    diffusion = config.diffusion()
    network = model.build_conditional(event, conditions or {})
    network.load_state_dict(model.weights(network))
    model.attach(network, diffusion)
    parametrization = config.objective.parametrization
    return NetworkScore(Denoiser(network.eval(), diffusion), diffusion, parametrization, (-1, 1), conditions), diffusion


def drawn(model, diffusion, sampler, noise, later=None):
    """What gendiff makes of noise, as diffusers has it: the chain starts from the noise itself."""
    return sample(
        diffusion, model, Sampler(sampler), later, start=diffusion.rotate(noise.double()).float(), dtype=torch.float32
    )


@pytest.fixture(scope="module")
def noise():
    return torch.randn(3, *EVENT, generator=torch.Generator().manual_seed(1))


class TestChains:
    @pytest.mark.parametrize(
        ("predicts", "betas"),
        [
            ("epsilon", "linear"),
            ("epsilon", "scaled_linear"),
            ("epsilon", "squaredcos_cap_v2"),
            ("v_prediction", "linear"),
            ("sample", "linear"),
        ],
    )
    def test_ddim_is_that_of_diffusers(self, tmp_path, noise, predicts, betas):
        said = {"prediction_type": predicts, "beta_schedule": betas}
        model, diffusion = score(pipeline(tmp_path / "a", unet(), **said))
        for clip in (True, False):
            theirs = DDIMScheduler(**SCHEDULE, **said, clip_sample=clip)
            # diffusers leaves ε̂ as it was where x̂_0 is clamped, unless it is told otherwise.
            expected = chain(unet(), theirs, noise, N, use_clipped_model_output=True)
            ours = drawn(model, diffusion, f"ddim:steps={N},grid=uniform,clip={str(clip).lower()}", noise)
            assert (ours - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
            assert expected.std() > 0.1

    def test_fewer_steps(self, tmp_path, noise):
        theirs = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", clip_sample=False)
        expected = chain(unet(), theirs, noise, 5)
        ours = drawn(*score(pipeline(tmp_path / "a")), "ddim:steps=5,grid=uniform,clip=false", noise)
        assert (ours - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))

    def test_ddpm_is_that_of_diffusers(self, tmp_path, noise):
        expected = chain(unet(), DDPMScheduler(**SCHEDULE), noise, N, generator=torch.Generator().manual_seed(5))
        same = torch.Generator().manual_seed(5)
        model, diffusion = score(pipeline(tmp_path / "a"))
        sampler = f"ancestral:steps={N},grid=uniform"
        ours = drawn(model, diffusion, sampler, noise, lambda: torch.randn(3, *EVENT, generator=same))
        assert (ours - expected).abs().max() < 1e-5

    @pytest.mark.parametrize("rows", [3, 4])
    def test_labels(self, tmp_path, noise, rows):
        """Of 3 classes; the weights may know one more, which stands for an absent one."""
        network, conditions = unet(num_class_embeds=rows), {"label": Condition.label(3)}
        labels = torch.tensor([0, 2, 1])
        expected = chain(network, DDIMScheduler(**SCHEDULE, clip_sample=False), noise, N, labels)
        model, diffusion = score(pipeline(tmp_path / "a", network), conditions=conditions)
        told = model.given({"label": labels})
        ours = drawn(told, diffusion, f"ddim:steps={N},grid=uniform,clip=false", noise)
        assert (ours - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
        table = network.class_embedding.weight
        absent = model.denoiser.network.inner.class_embedding.weight[3]
        assert torch.allclose(absent, table[3] if rows == 4 else table.mean(0))

    def test_a_transformer_with_a_variance(self, tmp_path, noise):
        network, labels = dit(), torch.tensor([0, 2, 1])
        expected = chain(network, DDIMScheduler(**SCHEDULE, clip_sample=False), noise, N, labels)
        folder = tmp_path / "a"
        network.save_pretrained(folder / "transformer")
        DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
        model, diffusion = score(folder, conditions={"label": Condition.label(3)})
        ours = drawn(model.given({"label": labels}), diffusion, f"ddim:steps={N},grid=uniform,clip=false", noise)
        assert (ours - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))


class TestNetworks:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return pipeline(tmp_path_factory.mktemp("net") / "a")

    def test_another_n_is_told_from_its_first_step_to_its_last(self, folder):
        model = Model("diffusers", path=str(folder))
        network = model.build(EVENT)
        config = Config.model_validate({**model.configuration(), "N": 96, "data": {"name": "digits"}})
        model.attach(network, config.diffusion())
        times = []
        network.inner.time_proj.register_forward_hook(lambda module, given, output: times.append(given[0]))
        network(torch.zeros(2, *EVENT), torch.tensor([1.0, 96.0]))
        assert torch.allclose(times[0], torch.tensor([0.0, N - 1.0]))

    def test_labels_that_the_weights_do_not_know_begin_without_effect(self, folder):
        model, conditions = Model("diffusers", path=str(folder)), {"label": Condition.label(2)}
        plain, told = model.build(EVENT), model.build_conditional(EVENT, conditions)
        plain.load_state_dict(model.weights(plain))
        told.load_state_dict(model.weights(told), strict=False)
        x, i = torch.randn(2, *EVENT), torch.tensor([3.0, 9.0])
        assert torch.equal(plain.eval()(x, i), told.eval()(x, i, {"label": torch.tensor([0, 1])}))

    def test_each_stage_is_called_with_tensors_alone(self, folder):
        model = Model("diffusers", path=str(folder))
        network, calls = model.build(EVENT), []
        for stage in model.stages_of(network):
            stage.register_forward_hook(
                lambda module, given, named, output: calls.append((module, given, named, output)), with_kwargs=True
            )
        network(torch.zeros(2, *EVENT), torch.ones(2))
        assert {id(module) for module, *_ in calls} == {id(stage) for stage in model.stages_of(network)}
        assert len(calls) == len(model.stages_of(network)) > 5
        for _, given, named, output in calls:
            assert isinstance(output, torch.Tensor)
            assert all(isinstance(value, torch.Tensor | None) for value in [*given, *named.values()])

    def test_it_opens_where_the_folder_is_gone(self, folder):
        table = Model("diffusers", path=str(folder)).table()
        gone = {**table, "path": "gone", "architecture": table["architecture"].replace(str(folder), "gone")}
        model = Model(gone)
        assert model.event_shape == EVENT
        assert model.spec == "diffusers:path=gone"
        network = model.build(EVENT)
        with pytest.raises(DataError, match=r"no safetensors|cannot read"):
            model.weights(network)

    def test_another_path_is_read_anew(self, folder, tmp_path):
        table = Model("diffusers", path=str(folder)).table()
        other = pipeline(tmp_path / "b", unet(3))
        assert Model({**table, "path": str(other)}).event_shape == (3, 8, 8)

    @pytest.mark.parametrize(
        ("event", "why"), [((1, 9, 8), "no multiples of 2"), ((1, 16), "reads pictures")], ids=["odd", "signal"]
    )
    def test_events_that_it_cannot_read(self, folder, event, why):
        with pytest.raises(ConfigError, match=why):
            Model("diffusers", path=str(folder)).build(event)

    def test_another_size_is_said(self, folder):
        with pytest.warns(UserWarning, match="trained on pictures of 8x8, not of 16x16"):
            Model("diffusers", path=str(folder)).build((1, 16, 16))

    def test_a_vector_is_no_label(self, folder):
        with pytest.raises(ConfigError, match="told of one label"):
            Model("diffusers", path=str(folder)).build_conditional(EVENT, {"size": Condition.vector(1, 0, 1)})


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        return pipeline(tmp_path / "a")

    def edit(self, file, **values):
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    def refused(self, error, folder, match):
        with pytest.raises(error, match=match) as info:
            Model("diffusers", path=str(folder))
        assert len(str(info.value).splitlines()) < 8

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"_class_name": "ScoreSdeVeScheduler"}, "no chain of β_i"),
            ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "no chain of β_i"),
            ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
            ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
            ({"beta_schedule": "sigmoid"}, "'sigmoid', and known are linear"),
            ({"prediction_type": "flow_prediction"}, "predicts 'flow_prediction'"),
        ],
    )
    def test_a_process_that_cannot_be_expressed(self, folder, values, why):
        self.edit(folder / "scheduler/scheduler_config.json", **values)
        self.refused(ConfigError, folder, why)

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"_class_name": "UNet2DConditionModel"}, "it is a UNet2DConditionModel"),
            ({"_class_name": "UVit2DModel"}, "it is a UVit2DModel, and known are UNet2DModel, DiTTransformer2DModel"),
            ({"time_embedding_type": "fourier"}, "told as 'fourier'"),
            ({"class_embed_type": "timestep"}, "told as 'timestep'"),
            ({"quantization_config": {}}, "quantised"),
        ],
    )
    def test_a_network_that_is_not_known(self, folder, values, why):
        self.edit(folder / "unet/config.json", **values)
        self.refused(ConfigError, folder, why)

    def test_a_pickle_is_never_read(self, folder):
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        self.refused(DataError, folder, "no safetensors")

    def test_nothing_there(self, tmp_path):
        self.refused(DataError, tmp_path / "nothing", "there is no")
        self.refused(DataError, tmp_path, "no network of diffusers")

    def test_a_link_to_a_pipe(self, folder, tmp_path):
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        weights.unlink()
        os.mkfifo(weights)
        self.refused(DataError, folder, "not a regular file")

    def test_weights_that_are_damaged(self, folder):
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        model = Model("diffusers", path=str(folder))
        with pytest.raises(DataError, match="cannot read the weights"):
            model.weights(model.build(EVENT))

    def test_weights_of_another_network(self, folder):
        self.edit(folder / "unet/config.json", down_block_types=["AttnDownBlock2D", "AttnDownBlock2D"])
        model = Model("diffusers", path=str(folder))
        with pytest.raises(DataError, match=r"not those of its config\.json"):
            model.weights(model.build(EVENT))

    def test_a_variant(self, folder):
        model = Model("diffusers", path=str(folder))
        expected = model.weights(network := model.build(EVENT))
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
        assert of_diffusers.weights_files(folder / "unet") == "fp16"
        ours = model.weights(network)
        assert all(torch.equal(ours[name], value) for name, value in expected.items())

    def test_a_model_alone(self, folder):
        model = Model("diffusers", path=str(folder / "unet"))
        with pytest.warns(UserWarning, match="no scheduler lies beside"):
            assert model.configuration()["N"] == 1000

    def test_without_the_library(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "diffusers", None)
        model = Model("diffusers", path=str(folder))  # its JSON needs no library
        with pytest.raises(PluginError, match="needs the library diffusers") as info:
            model.build(EVENT)
        assert "pip install 'gendiff[diffusers]'" in str(info.value)


COMMIT = "a" * 40
REPOSITORY = "org/pictures"


class Hub:
    """What of huggingface_hub is used: repositories by name, each a folder at one commit, and a cache."""

    def __init__(self, cache, repositories):
        self.cache, self.repositories = cache, repositories
        self.down, self.asked, self.patterns = False, 0, []

    def HfApi(self):
        return self

    def model_info(self, repository, revision=None):
        self.asked += 1
        if self.down:
            raise ConnectionError("no route to host")
        if repository not in self.repositories:
            raise LookupError("404: Repository Not Found")
        files = [str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in files])

    @property
    def folder(self):
        return self.repositories[REPOSITORY]

    def snapshot_download(self, repository, revision=None, allow_patterns=(), local_files_only=False):
        place = self.cache / "snapshots" / COMMIT
        if local_files_only:
            if not place.exists() or revision not in (None, "main", COMMIT):
                raise FileNotFoundError(repository)
            return str(place)
        assert revision == COMMIT
        self.patterns = list(allow_patterns)
        for name in allow_patterns:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / name, place / name)
        return str(place)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = pipeline(tmp_path / "there")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    (folder / "README.md").write_text("# pictures")
    one = Hub(tmp_path / "cache", {REPOSITORY: folder})
    monkeypatch.setitem(sys.modules, "huggingface_hub", one)
    return one


class TestHub:
    def test_only_what_is_needed_comes_of_one_commit(self, hub):
        model = Model("diffusers", path=REPOSITORY)
        assert sorted(hub.patterns) == [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ]
        assert model.spec == f"diffusers:path={REPOSITORY},revision={COMMIT}"
        local = Model("diffusers", path=str(hub.folder))
        assert model.configuration() == local.configuration()
        network = model.build(EVENT)
        expected = local.weights(network)
        assert all(torch.equal(value, expected[name]) for name, value in model.weights(network).items())

    def test_what_was_stored_asks_nobody(self, hub):
        table = Model("diffusers", path=REPOSITORY).table()
        hub.down, hub.asked = True, 0
        again = Model(table)
        again.weights(again.build(EVENT))
        assert hub.asked == 0

    def test_without_a_network_the_cache_serves(self, hub):
        table = Model("diffusers", path=REPOSITORY).table()
        hub.down = True
        assert Model("diffusers", path=REPOSITORY).table() == table

    @pytest.mark.parametrize(("name", "why"), [(REPOSITORY, "no route to host"), ("org/no", "Repository Not Found")])
    def test_what_cannot_be_had_is_one_screen(self, hub, name, why):
        hub.down = name == REPOSITORY
        with pytest.raises(DataError, match=f"the Hub did not give it: .*{why}") as info:
            Model("diffusers", path=name)
        assert "hf download" in str(info.value)
        assert len(str(info.value).splitlines()) < 8

    def test_a_repository_of_pickles_alone_is_refused(self, hub):
        for file in hub.folder.rglob("*.safetensors"):
            file.unlink()
        with pytest.raises(DataError, match="no weights in safetensors"):
            Model("diffusers", path=REPOSITORY)
        assert not hub.patterns

    def test_a_path_of_this_machine_asks_nobody(self, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "org").mkdir()
        for path in (REPOSITORY, "gone", "./org/a", "/org/a", "a/b/c"):
            with pytest.raises(DataError, match="there is no"):
                Model("diffusers", path=path)
        assert hub.asked == 0

    def test_a_folder_has_no_revision(self, hub):
        with pytest.raises(ConfigError, match="has no revision 'main'"):
            Model("diffusers", path=str(hub.folder), revision="main")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(PluginError, match="needs the library huggingface_hub"):
            Model("diffusers", path=REPOSITORY)


def test_a_network_and_its_scheduler_side_by_side(tmp_path):
    """As the first pipelines of the Hub have them: all in one folder."""
    folder = pipeline(tmp_path / "a")
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    assert Model("diffusers", path=str(folder)).configuration()["N"] == N
    assert "config.json" in of_diffusers.needed([file.name for file in folder.iterdir()])
