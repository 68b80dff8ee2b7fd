"""The built-in features, and the proof that FID is the number of pytorch-fid."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
from command import run
from gendiff_plugins.features.bands import Bands
from gendiff_plugins.features.dct import DCT
from gendiff_plugins.features.inception import FILE, PUBLISHED, Inception
from gendiff_plugins.features.pixels import Pixels
from gendiff_plugins.features.random_conv import RandomConv
from PIL import Image
from pytorch_fid import inception as theirs
from pytorch_fid.fid_score import compute_statistics_of_path as theirs_of_path

from gendiff.errors import ConfigError, DataError
from gendiff.evaluation.distances import frechet
from gendiff.evaluation.statistics import Statistics
from gendiff.features import Features
from gendiff.testing import CheckFailed, checks

SCIPY = tuple(map(int, scipy.__version__.split(".")[:2]))
RANDOM_CONV_SUM = 137.7295  # of a white picture of 4 x 4


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory) -> Path:
    """A folder for TORCH_HOME with random weights in the file of the Inception network."""
    home = tmp_path_factory.mktemp("torch")
    made, make = [], theirs._inception_v3
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(theirs, "_inception_v3", lambda *args, **kwargs: made.append(make(*args, **kwargs)) or made[0])
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: made[0].state_dict())
        network = theirs.fid_inception_v3()
    generator = torch.Generator().manual_seed(0)
    for name, value in (state := network.state_dict()).items():
        if value.ndim == 4:  # signals keep their size through all layers
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
        elif name.endswith("bn.bias"):
            value.copy_(torch.randn(value.shape, generator=generator) / 10)
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, home / "hub" / "checkpoints" / FILE)
    return home


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """No weights, and no network to get them from."""

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.delenv("GENDIFF_FID_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return tmp_path


class TestContract:
    @pytest.mark.parametrize(
        "check",
        [
            check
            for features in (
                Pixels(),
                Pixels(downsample=3),
                DCT(),
                DCT(log_magnitude=False),
                RandomConv(),
                Bands(),
                Bands(size=4, lowest=0, cells=1),
                Inception(),
            )
            for check in checks(features)
        ],
        ids=lambda check: f"{check.subject.spec}-{check.function.__name__}",
    )
    def test_built_in_features_conform(self, check, torch_home, monkeypatch):
        monkeypatch.setenv("GENDIFF_FID_WEIGHTS", str(torch_home / "hub" / "checkpoints" / FILE))
        seen = check()
        assert seen
        assert "not tried" not in seen

    def test_features_whose_weights_are_absent_are_not_tried(self, nowhere):
        seen = [check() for check in checks(Inception()) if check.function.__module__.endswith("features")]
        assert len(seen) == 5
        assert all("not tried" in text for text in seen)

    def test_unsound_features_are_found(self):
        class Wrong(Features):
            """features that break a promise."""

            name = "wrong"
            flaw: str = ""

            def extract(self, events):
                x = events.flatten(1).clone()
                match self.flaw:
                    case "in place":
                        events.add_(1)
                    case "shape":
                        return x[:, None]
                    case "float64":
                        return x.double()
                    case "nan":
                        return x / (x - x[:, :1])
                    case "view":
                        return events.flatten(1)
                    case "batch":
                        return x - x.mean(0)
                    case "random":
                        return x + torch.randn(x.shape)
                    case "constant":
                        return torch.ones_like(x)
                return x

            @property
            def fingerprint(self):
                return "two\nlines" if self.flaw == "fingerprint" else "wrong/1"

            @property
            def distance_name(self):
                return "fid" if self.flaw == "name" else super().distance_name

        def broken(flaw: str) -> set[str]:
            found = set()
            for check in checks(Wrong(flaw=flaw)):
                try:
                    check()
                except CheckFailed:
                    found.add(check.function.__name__)
            return found - {"sent"}  # a class of this function cannot be pickled

        assert broken("") == set()
        expected = {
            "in place": "rows", "shape": "rows", "float64": "rows", "nan": "rows", "view": "rows", "batch": "alone",
            "random": "pure", "constant": "telling", "fingerprint": "named", "name": "named",
        }  # fmt: skip
        for flaw, name in expected.items():
            assert name in broken(flaw), flaw


class TestPlain:
    def test_pixels_are_the_values_or_block_means(self):
        x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
        assert torch.equal(Pixels().extract(x), x.flatten(1))
        blocks = x.reshape(2, 3, 2, 2, 3, 2).mean((3, 5)).flatten(1)
        torch.testing.assert_close(Pixels(downsample=2).extract(x), blocks)
        assert Pixels(downsample=5).extract(x[:, :, 0]).shape == (2, 3 * 2)
        assert Pixels(downsample=2).fingerprint != Pixels().fingerprint

    def test_dct_keeps_distances_unless_it_takes_logarithms(self, rng):
        x, y = torch.rand(30, 1, 5, 6, generator=rng), torch.rand(30, 1, 5, 6, generator=rng) ** 2
        by = lambda features: frechet(*(Statistics.of(features.extract(z)) for z in (x, y)))  # noqa: E731
        assert by(DCT(log_magnitude=False)) == pytest.approx(by(Pixels()), rel=1e-4)
        assert by(DCT()) != pytest.approx(by(Pixels()), rel=0.1)
        constant = DCT().extract(torch.full((1, 1, 2, 2), 0.5))
        assert constant[0, 0].item() == pytest.approx(0, abs=1e-5)  # c_0 = 1
        assert constant[0, 1:].tolist() == pytest.approx([np.log(1e-6) / 2] * 3)

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 20), (2, 31), (5, 1), (1, 4, 6, 5), (1, 1, 1)])
    def test_random_conv_takes_everything(self, shape, rng):
        x = torch.rand(3, *shape, generator=rng) * 2 - 1
        y = RandomConv().extract(x)
        assert y.shape == (3, 3 * 32 * 2 ** (len(shape) - 1))
        assert torch.isfinite(y).all()
        assert 0.01 < y.std() < 10

    def test_random_conv_is_one_network_for_one_seed(self, rng):
        x = torch.rand(4, 2, 9, 7, generator=rng)
        assert torch.equal(RandomConv().extract(x), RandomConv(seed=0).extract(x))
        assert not torch.equal(RandomConv().extract(x), RandomConv(seed=1).extract(x))
        assert len({RandomConv(**p).fingerprint for p in ({}, {"seed": 1}, {"width": 8}, {"depth": 2})}) == 4
        # The numbers themselves: stored statistics must stay comparable.
        assert RandomConv().extract(torch.ones(1, 1, 4, 4)).sum().item() == pytest.approx(RANDOM_CONV_SUM, rel=1e-4)

    def test_random_conv_ranks_growing_noise(self, rng):
        x = torch.nn.functional.avg_pool2d(torch.randn(400, 1, 20, 20, generator=rng), 4, 1).clamp(-1, 1)
        rows = [
            RandomConv().extract(x[200:] + noise * torch.randn(200, 1, 17, 17, generator=rng))
            for noise in (0, 0.2, 0.5)
        ]
        reference = Statistics.of(RandomConv().extract(x[:200]))
        found = [frechet(Statistics.of(row), reference) for row in rows]
        assert found == sorted(found)
        assert found[2] > 2 * found[0]

    def test_bands_are_the_energy_of_a_block_on_a_logarithmic_scale(self):
        x = torch.full((1, 1, 16, 16), 0.5)
        wave = scipy.fft.idct(np.eye(8)[7], norm="ortho")  # ω = 7π/8 along an axis: ρ is in the third of four bands
        x[0, 0, 8:, :8] += torch.from_numpy(0.25 * np.outer(np.ones(8), wave))
        third, fourth = Bands(cells=2).extract(x)[0].reshape(2, 2, 2)
        # 0.25 in each of 8 rows is one coefficient of 0.25 sqrt(8).
        rho = np.hypot(*np.meshgrid(np.arange(8), np.arange(8))) / np.hypot(7, 7)
        energy = 0.25**2 * 8 / np.count_nonzero((rho >= 0.5) & (rho < 0.75))
        assert third[1, 0].item() == pytest.approx(np.log1p(energy * 127.5**2) / 2, rel=1e-4)
        third[1, 0] = 0
        assert torch.cat([third, fourth]).abs().max() < 1e-6
        assert Bands(cells=1).extract(x).tolist()[0] == pytest.approx(
            [np.log1p(energy * 127.5**2) / 8, 0], rel=1e-4, abs=1e-6
        )

    @pytest.mark.parametrize(
        ("shape", "numbers"), [((1, 28, 28), 32), ((3, 32, 20), 3 * 2 * 12), ((2, 31), 16), ((1, 9, 8, 16), 8)]
    )
    def test_bands_look_at_every_sample(self, shape, numbers, rng):
        x = torch.rand(1, *shape, generator=rng)
        with torch.enable_grad():
            Bands().extract(x.requires_grad_()).square().sum().backward()
        assert Bands().extract(x.detach()).shape == (1, numbers)
        assert (x.grad.abs() > 0).all()

    def test_bands_see_grain_that_a_random_network_does_not(self, rng):
        # Discs on white, as emoji are; the grain is of two grey levels.
        rows, columns = torch.arange(32)[:, None], torch.arange(32)
        centres, radii = torch.randint(8, 24, (200, 2), generator=rng), torch.randint(4, 9, (200,), generator=rng)
        x = torch.stack(
            [
                1 - 1.5 * ((rows - a) ** 2 + (columns - b) ** 2 < r**2).float()
                for (a, b), r in zip(centres.tolist(), radii.tolist(), strict=True)
            ]
        )[:, None]
        grain = x + 2 / 127.5 * torch.randn(x.shape, generator=rng)

        def against_real(features: Features) -> float:
            real, other, noisy = (Statistics.of(features.extract(e)) for e in (x[:100], x[100:], grain[100:]))
            return frechet(noisy, real) / frechet(other, real)

        assert against_real(Bands()) > 3
        assert against_real(RandomConv()) < 1.1

    def test_bands_that_a_block_has_not_are_refused(self):
        with pytest.raises(ConfigError, match=r"no frequency of 8x8 lies in band 4") as refusal:
            Bands(lowest=4).extract(torch.zeros(1, 1, 8, 8))
        assert refusal.value.details == ("blocks of 8x8 have bands 0 to 3",)
        assert len({Bands(**p).fingerprint for p in ({}, {"size": 4}, {"bands": 5}, {"lowest": 1}, {"cells": 2})}) == 5

    def test_events_of_other_shapes_are_refused(self):
        others = ((RandomConv(), (2, 3)), (Bands(), (2, 3)), (Pixels(downsample=2), (2, 3)), (Inception(), (2, 3, 9)))
        for features, shape in others:
            with pytest.raises(ConfigError):
                features.extract(torch.zeros(shape))


class TestInception:
    def test_weights_are_looked_for_in_order(self, torch_home, nowhere, monkeypatch):
        kept = torch_home / "hub" / "checkpoints" / FILE
        fingerprint = f"inception/1 {hashlib.sha256(kept.read_bytes()).hexdigest()[:16]}"
        for name in ("one", "two"):
            (nowhere / name).write_text(name)
        sha256 = lambda text: f"inception/1 {hashlib.sha256(text.encode()).hexdigest()[:16]}"  # noqa: E731
        monkeypatch.setenv("TORCH_HOME", str(torch_home))
        assert Inception().fingerprint == fingerprint
        monkeypatch.setenv("GENDIFF_FID_WEIGHTS", str(nowhere / "one"))
        assert Inception().fingerprint == sha256("one")
        assert Inception(weights=nowhere / "two").fingerprint == sha256("two")

    def test_only_the_published_weights_give_fid(self, torch_home, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(torch_home))
        assert Inception().distance_name == "fd-inception"
        monkeypatch.setattr(Inception, "fingerprint", f"inception/1 {PUBLISHED}")
        assert Inception().distance_name == "fid"
        assert [features.distance_name for features in (Pixels(), RandomConv())] == ["fd-pixels", "fd-random-conv"]

    def test_absent_weights_say_where_to_put_them(self, nowhere, monkeypatch):
        for features in (Inception(), Inception(weights=nowhere / "none.pth")):
            for ask in (lambda f: f.fingerprint, lambda f: f.extract(torch.zeros(1, 1, 8, 8))):
                with pytest.raises(DataError) as raised:
                    ask(features)
                assert raised.value.exit_code == 4
                assert FILE in str(raised.value)
                assert "GENDIFF_FID_WEIGHTS" in str(raised.value)
                assert "http" not in str(raised.value)
        with pytest.raises(DataError, match=str(nowhere / "home" / "hub" / "checkpoints" / FILE)):
            _ = Inception().fingerprint

    def test_another_file_is_a_data_error(self, tmp_path):
        path = tmp_path / "weights.pth"
        for write in (
            lambda: path.write_bytes(b""),
            lambda: path.write_bytes(b"not weights"),
            lambda: torch.save({"fc.weight": torch.zeros(3)}, path),
            lambda: torch.save(Path, path),  # a pickle that names code
        ):
            write()
            with pytest.raises(DataError, match="cannot read the Inception weights"):
                Inception(weights=path).extract(torch.zeros(1, 3, 8, 8))

    def test_grey_is_rgb_and_values_are_cut_off(self, torch_home, monkeypatch, rng):
        monkeypatch.setenv("TORCH_HOME", str(torch_home))
        x = torch.rand(2, 1, 8, 12, generator=rng) * 3 - 1.5
        rows = Inception().extract(x)
        assert rows.shape == (2, 2048)
        assert torch.equal(rows, Inception().extract(x.clamp(-1, 1).repeat(1, 3, 1, 1)))
        assert theirs.load_state_dict_from_url.__module__ != "gendiff_plugins.features.inception"

    @pytest.mark.slow
    def test_fid_is_the_number_of_pytorch_fid(self, folders, torch_home):
        """`gendiff evaluate` and the command line of pytorch-fid, on the same two folders of pictures."""
        weights = torch_home / "hub" / "checkpoints" / FILE
        done = run(
            "evaluate", folders / "A", "--reference", folders / "B", "--fid-weights", weights, "--json",
            "--save-statistics", folders / "A.npz",
        )  # fmt: skip
        assert done.code == 0, done.err
        number = done.json["numbers"][0]
        assert number["name"] == "fd-inception"  # these weights are not those of FID
        assert number["instrument_fingerprint"] == Inception(weights=weights).fingerprint
        assert (number["samples"]["n"], number["reference"]["n"]) == (9, 8)
        theirs = pytorch_fid(torch_home, folders, ["-c", WITH_A_QUICK_ROOT], "A", "B")
        assert theirs == pytest.approx(number["value"], rel=1e-4)
        # Their reader of statistics, and ours.
        mu, sigma = theirs_of_path(str(folders / "A.npz"), None, 9, 2048, "cpu")
        read = Statistics.load(folders / "A.npz")
        assert (read.n, read.features, read.fingerprint) == (9, number["instrument"], number["instrument_fingerprint"])
        assert (mu == read.mean.numpy()).all()
        assert (sigma == read.covariance.numpy()).all()

    @pytest.mark.slow
    @pytest.mark.skipif(SCIPY >= (1, 18), reason="pytorch-fid asks SciPy for an argument that it no longer has")
    def test_fid_is_the_number_of_pytorch_fid_with_the_root_of_scipy(self, folders, torch_home):
        done = run("evaluate", folders / "A", "--reference", folders / "B", "--features", "inception", "--json")
        theirs = pytorch_fid(torch_home, folders, ["-m", "pytorch_fid"], "A", "B")
        assert theirs == pytest.approx(done.json["numbers"][0]["value"], rel=1e-4)


@pytest.fixture
def folders(torch_home, tmp_path, monkeypatch) -> Path:
    """Folders A and B of pictures."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    for folder, level, count in (("A", 110, 9), ("B", 170, 8)):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(level).normal(level, 40, (count, 40, 36, 3)).clip(0, 255).astype(np.uint8)
        for k, picture in enumerate(pixels):
            Image.fromarray(picture).save(tmp_path / folder / f"{k:02}.png")
    return tmp_path


#: The command line of pytorch-fid, but for the root of a 2048 x 2048 matrix, which takes SciPy twenty seconds. Only its trace
#: is asked for: the sum of the roots of the eigenvalues, at most 8 of which are not 0.
WITH_A_QUICK_ROOT = """
import numpy as np, scipy.linalg
def sqrtm(matrix, disp=True):
    basis = np.linalg.qr(matrix @ np.random.default_rng(0).normal(size=(len(matrix), 24))).Q
    values = np.linalg.eigvals(basis.T @ matrix @ basis)
    root = np.zeros_like(matrix)
    root[0, 0] = np.sqrt(values.real.clip(0)).sum()
    return root, 0.0
scipy.linalg.sqrtm = sqrtm
from pytorch_fid import fid_score
fid_score.main()
"""


def pytorch_fid(torch_home: Path, folder: Path, program: list[str], *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *program, *arguments, "--device", "cpu", "--dims", "2048", "--num-workers", "0"],
        cwd=folder, env={**os.environ, "TORCH_HOME": str(torch_home), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("FID:")[1])
