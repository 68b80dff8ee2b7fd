"""Generation: the same image for the same seed, to the bit, whatever else is asked for."""

from __future__ import annotations

import pytest
import torch
from runs import CPU, UNET, create, settings, train

from gendiff import Sampler
from gendiff.errors import ConfigError, DataError
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.generation import Trajectory, draw_grid, generate
from gendiff.run.network import build_denoiser
from gendiff.run.trained import TrainedModel
from gendiff.streams import ImageNoise

ARMS = [
    ("digits", "identity", UNET),
    ("digits", "dct", UNET + ",frequency_features=true"),
    ("gaussian-field:size=[12,20],channels=3", "blur-eigen", "unet:channels=8,multipliers=[1,2],heads=2"),
    ("gaussian-field:size=[37],channels=2", "dct", "mlp:width=64,depth=2"),
]
SAMPLERS = [
    "ddim:steps=4",
    "ancestral:steps=4",
    "unipc-2:steps=4,prior=matched",
]  # the second draws noise at every step


def model(data, rotation, network, path):
    """A network whose output is far from zero: a U-Net begins as one that says nothing."""
    config = settings(network, data, rotation)
    denoiser = build_denoiser(config, CPU).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return denoiser, Run(path, config)


def draw(denoiser, run, sampler, images, batch, seed=11, **options):
    parts = list(generate(denoiser, run, Sampler.model_validate(sampler), seed, images, batch, **options))
    assert all(len(part) <= batch for part in parts)
    return torch.cat(parts) if parts else torch.empty(0)


class TestSameImage:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize(("data", "rotation", "network"), ARMS)
    def test_whatever_the_batch_the_order_and_the_others(self, data, rotation, network, sampler, tmp_path):
        denoiser, run = model(data, rotation, network, tmp_path)
        every = draw(denoiser, run, sampler, range(66), 64)
        assert every.isfinite().all()
        assert every.std() > 0.05
        assert len(every.flatten(1).unique(dim=0)) == 66
        for batch in (1, 3, 8):
            assert torch.equal(draw(denoiser, run, sampler, range(10), batch), every[:10])
        for images in ([5], [65, 0, 17], range(60, 66), range(9, 3, -1), range(1, 20, 2)):
            assert torch.equal(draw(denoiser, run, sampler, images, 4), every[list(images)])

    def test_another_seed_is_another_image(self, tmp_path):
        denoiser, run = model(*ARMS[0], tmp_path)
        one, other = (draw(denoiser, run, "ddim:steps=2", [0], 1, seed=seed) for seed in (0, 1))
        assert (one - other).abs().max() > 0.1

    def test_another_chunk_is_the_same_up_to_rounding(self, tmp_path):
        denoiser, run = model(*ARMS[0], tmp_path)
        one, other = (draw(denoiser, run, "ddim:steps=4", range(5), 5, chunk=chunk) for chunk in (4, 16))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def test_global_randomness_does_not_matter(self, tmp_path):
        denoiser, run = model(*ARMS[0], tmp_path)
        torch.manual_seed(1)
        one = draw(denoiser, run, "ancestral:steps=3", range(3), 3)
        torch.manual_seed(2)
        assert torch.equal(draw(denoiser, run, "ancestral:steps=3", range(3), 3), one)

    def test_no_images(self, tmp_path):
        denoiser, run = model(*ARMS[0], tmp_path)
        assert len(draw(denoiser, run, "ddim:steps=2", [], 4)) == 0

    def test_clipping_follows_the_range_of_the_data(self, tmp_path):
        clipped, free = "ddim:steps=4,clip=true", "ddim:steps=4,clip=false"
        denoiser, run = model(*ARMS[0], tmp_path)
        assert draw(denoiser, run, free, range(4), 4).abs().max() > 1
        assert draw(denoiser, run, clipped, range(4), 4).abs().max() <= 1 + 1e-5
        denoiser, run = model(*ARMS[2], tmp_path)  # these data have no range
        assert torch.equal(draw(denoiser, run, clipped, [0], 1), draw(denoiser, run, free, [0], 1))


class TestImageNoise:
    def test_each_image_has_its_own_stream(self):
        whole = ImageNoise(3, range(6), (1, 4, 5), CPU)
        draws = [whole() for _ in range(3)]
        for image in range(6):
            alone = ImageNoise(3, [image], (1, 4, 5), CPU)
            for drawn in draws:
                assert torch.equal(alone()[0], drawn[image])
        assert len(torch.cat(draws).flatten(1).unique(dim=0)) == 18


class TestTrainedModel:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        torch.set_num_threads(1)
        run = create(tmp_path_factory.mktemp("runs") / "r", settings(steps=6, checkpoint_every=3))
        train(run)
        return run

    @pytest.mark.parametrize(("ema", "weights"), [(True, "ema"), (False, "model")])
    def test_the_weights_asked_for(self, run, ema, weights):
        found = TrainedModel.load(run, CPU, ema)
        saved = checkpoint.newest(run.checkpoints)
        assert (found.step, found.weights) == (6, weights)
        assert found.weights_hash == checkpoint.weights_hash(checkpoint.directory(run.checkpoints, 6), weights)
        for name, weight in found.denoiser.network.state_dict().items():
            assert torch.equal(weight, saved.tensors[weights][name])
        assert not found.denoiser.training

    def test_the_current_weights_where_no_average_is_kept(self, tmp_path):
        run = create(tmp_path / "r", settings(steps=2, ema=0))
        train(run)
        assert TrainedModel.load(run, CPU).weights == "model"

    def test_a_damaged_checkpoint_is_passed_over_and_said(self, run, tmp_path):
        import shutil

        copy = tmp_path / "copy"
        shutil.copytree(run.path, copy)
        file = checkpoint.directory(copy / "checkpoints", 6) / "ema.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        problems = []
        found = TrainedModel.load(Run.open(copy), CPU, problems=problems)
        assert found.step == 3
        assert len(problems) == 1
        assert str(file) in problems[0]

    def test_another_network_is_refused(self, run):
        other = Run(run.path, settings("mlp:width=32,depth=1"))
        with pytest.raises(DataError, match="belongs to another network") as caught:
            TrainedModel.load(other, CPU)
        assert caught.value.exit_code == 4

    def test_a_checkpoint_without_weights_is_refused(self, tmp_path):
        run = create(tmp_path / "r", settings())
        checkpoint.save(run.checkpoints, checkpoint.Checkpoint(3, {"other": {}}, {}, {}), keep=1)
        with pytest.raises(DataError, match="belongs to another network"):
            TrainedModel.load(run, CPU)

    def test_nothing_trained_yet(self, tmp_path):
        with pytest.raises(DataError, match="no usable checkpoint"):
            TrainedModel.load(create(tmp_path / "r", settings()), CPU)


def test_a_grid_is_the_same_bytes_twice(tmp_path):
    denoiser, run = model(*ARMS[0], tmp_path)
    for name in ("one.png", "two.png"):
        draw_grid(denoiser.train(), run, Sampler.model_validate("ddim:steps=2"), tmp_path / "new" / name)
    assert (tmp_path / "new" / "one.png").read_bytes() == (tmp_path / "new" / "two.png").read_bytes()


class TestTrajectory:
    @pytest.mark.parametrize("batch", [1, 3, 8])
    def test_views_run_from_the_prior_to_the_image(self, batch, tmp_path):
        denoiser, run = model(*ARMS[0], tmp_path)
        sampler = Sampler.model_validate("ddim:steps=10")
        views = Trajectory(denoiser, sampler, count=6, rows=5)
        images = draw(denoiser, run, "ddim:steps=10", range(8), batch, watch=views)
        assert [tuple(view.shape) for view in views.events] == [(5, 1, 8, 8)] * 6
        torch.testing.assert_close(views.events[-1], images[:5], rtol=1e-5, atol=1e-5)
        prior = denoiser.diffusion.prior(ImageNoise(11, range(5), (1, 8, 8), CPU)())
        torch.testing.assert_close(views.events[0], denoiser.diffusion.unrotate(prior), rtol=1e-5, atol=1e-5)

    def test_too_few_moments(self, tmp_path):
        denoiser, _ = model(*ARMS[0], tmp_path)
        with pytest.raises(ConfigError, match="at least 2"):
            Trajectory(denoiser, Sampler.model_validate("ddim:steps=10"), count=1)


class TestPriorOfData:
    SPEC = "ddim:steps=3,prior=data"

    def test_chains_start_from_events_of_the_run_which_depend_on_the_number_alone(self, tmp_path):
        run = create(tmp_path / "run", settings(steps=1))
        train(run)
        model = TrainedModel.load(Run.open(run.path), CPU)  # to sample: its data are a stand-in, and are opened again
        seen = []
        every = draw(model.denoiser, model.run, self.SPEC, range(6), 3, watch=seen.append)
        assert torch.equal(draw(model.denoiser, model.run, self.SPEC, [4], 1), every[4:5])
        process, data = model.denoiser.diffusion, run.config.data
        a = process.at(process.N).a
        starts = torch.cat([look.x_bar for look in seen if look.number == 0])
        events = a * process.rotate(torch.stack([data[k] for k in range(data.length)]))
        gaps = (starts[:, None] - events).abs().flatten(2).amax(2)
        assert (gaps.amin(1) < 1e-6).all()
        assert len(gaps.argmin(1).unique()) > 1

    def test_data_that_are_gone_or_others_are_an_error_that_says_so(self, tmp_path):
        run = create(tmp_path / "run", settings(steps=1))
        train(run)
        opened = Run.open(run.path)
        model = TrainedModel.load(opened, CPU)
        run.update(data={**run.info["data"], "fingerprint": "another"})
        with pytest.raises(DataError, match="are not those that it was trained on"):
            draw(model.denoiser, opened, self.SPEC, range(2), 2)


def test_a_trajectory_of_a_sampler_that_corrects_shows_each_moment_once(tmp_path):
    denoiser, run = model(*ARMS[0], tmp_path)
    sampler = Sampler.model_validate("heun:steps=7,grid=uniform")
    views = Trajectory(denoiser, sampler, count=8, rows=3)
    draw(denoiser, run, sampler, range(4), 2, watch=views)
    assert [len(view) for view in views.events] == [3] * 8
