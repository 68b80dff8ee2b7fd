"""The built-in data: the same event for the same index, the promised statistics, and every kind of bad file named."""

from __future__ import annotations

import importlib
import math
import os
import pickle
import struct
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gendiff_plugins.data import gendiff_components
from gendiff_plugins.data.dead_leaves import DeadLeaves, Leaves
from gendiff_plugins.data.digits import Digits
from gendiff_plugins.data.folder import Folder
from gendiff_plugins.data.gaussian_field import GaussianField
from PIL import Image
from scipy.stats import ks_2samp, kstest

from gendiff.component import summary
from gendiff.datasets.images import SHOWN
from gendiff.dct import dct_matrix
from gendiff.errors import ConfigError, DataError
from gendiff.frequency import dct_frequency, radius
from gendiff.streams import stream

H, W = 6, 10


def dct(x):
    """Orthonormal DCT-II of the last two axes, float64."""
    return torch.einsum("...hw,hk,wl->...kl", x.double(), dct_matrix(x.shape[-2]), dct_matrix(x.shape[-1]))


def events(data, n):
    return torch.stack([data[index] for index in range(n)])


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def gradient(height=H, width=W):
    """A colour picture in which no two pixels and no two channels are alike."""
    ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    return np.stack([ramp, 255 - ramp, 4 * ramp], axis=-1)


def as_event(array):
    """The event of 8-bit values ``(H, W, C)``."""
    return torch.from_numpy(np.asarray(array)).permute(2, 0, 1).to(torch.float32) / 127.5 - 1


def png(width, height, depth, colour, rows):
    """A PNG file written by hand, for kinds that Pillow cannot write."""

    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# --- every data component ---------------------------------------------------------------------------------------------


@pytest.fixture
def every(tmp_path):
    for number in range(3):
        save(tmp_path / f"{number}.png", np.roll(gradient(), number, axis=0))
    return [
        Digits(),
        DeadLeaves(size=(12, 9), channels=2, seed=3),
        GaussianField(size=(5, 8), channels=3),
        GaussianField(size=(17,), channels=2),
        Folder(path=tmp_path, size=(7, 4)),
    ]


def test_manifest_announces_the_classes_as_they_are():
    announced = list(gendiff_components())
    assert [lazy.name for lazy in announced][:4] == ["digits", "dead-leaves", "gaussian-field", "folder"]
    for lazy in announced:
        module, _, name = lazy.target.partition(":")
        component = getattr(importlib.import_module(module), name)
        assert (lazy.kind, lazy.name, lazy.summary) == (component.kind, component.name, summary(component))


def test_manifest_imports_no_torch():
    code = "import sys, gendiff_plugins.data as d; d.gendiff_components(); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_events_have_the_declared_shape_and_type(every):
    for data in every:
        x = data[1]
        assert x.shape == data.event_shape
        assert x.dtype == torch.float32
        assert x.is_contiguous()


def test_an_event_is_a_function_of_its_index(every):
    for data in every:
        again = type(data).model_validate(data.table())
        assert again == data
        assert torch.equal(again[2], data[2])
        assert torch.equal(data[2], data[2])
        assert not torch.equal(data[1], data[2])


def test_caches_stay_out_of_tables_equality_and_hash(every):
    for data in every:
        fresh = type(data).model_validate(data.table())
        data[0], data.fingerprint
        assert fresh.table() == data.table()
        assert set(data.table()) == {
            "name",
            *(key for key in type(data).model_fields if getattr(data, key) is not None),
        }
        assert fresh == data
        assert hash(fresh) == hash(data)


def test_events_survive_pickling_to_a_worker(every):
    for data in every:
        x = data[1]
        copy = pickle.loads(pickle.dumps(data))
        assert copy == data
        assert torch.equal(copy[1], x)


def test_negative_indices_do_not_exist(every):
    for data in every:
        with pytest.raises(IndexError):
            data[-1]


def test_finite_data_ends(every):
    for data in every:
        if data.length is None:
            assert torch.isfinite(data[10**12]).all()
        else:
            data[data.length - 1]
            with pytest.raises(IndexError):
                data[data.length]


def test_every_parameter_is_documented_and_no_other_is_accepted(every):
    for data in every:
        assert all(info.description for info in type(data).model_fields.values())
        with pytest.raises(ConfigError, match="typo"):
            type(data).model_validate({**data.table(), "typo": 1})


@pytest.mark.parametrize(
    ("component", "parameters"),
    [
        (DeadLeaves, {"size": 7}),
        (DeadLeaves, {"size": (8, 9, 10)}),
        (DeadLeaves, {"size": (8, 5000)}),
        (DeadLeaves, {"channels": 5}),
        (DeadLeaves, {"r_min": 0}),
        (GaussianField, {"size": 1}),
        (GaussianField, {"size": ()}),
        (GaussianField, {"std": 0}),
        (GaussianField, {"power": float("nan")}),
        (Folder, {"path": "x", "channels": 2}),
        (Folder, {"path": "x", "size": (0, 3)}),
        (Folder, {"path": "x", "crop": "left"}),
        (Folder, {}),
    ],
)
def test_impossible_parameters_are_refused(component, parameters):
    with pytest.raises(ConfigError):
        component(**parameters)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_complete():
    data = Digits()
    x = events(data, data.length)
    v = ((x + 1) * 8).to(torch.float64)
    assert data.length == len(data.labels) == 1797
    assert torch.equal(v, v.round())
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert v.sum().item() == 561718  # of the 115008 published pixels


def test_first_digit_is_the_published_zero():
    row = [0, 0, 13, 15, 10, 15, 5, 0]  # second row of the first line of the source
    data = Digits()
    assert ((data[0][0, 1] + 1) * 8).tolist() == row
    assert data.labels[0] == 0


# --- dead leaves ------------------------------------------------------------------------------------------------------


def spectral_slope(x):
    """Slope of log power against log frequency, over rings of equal width in log ρ, of pictures ``(B, C, H, W)``."""
    power = (dct(x) ** 2).mean(dim=(0, 1))
    rho = radius([dct_frequency(n) for n in power.shape])
    edges = torch.logspace(math.log10(1.5 * math.pi / max(power.shape)), math.log10(math.pi), 9)
    rings = [(rho >= low) & (rho < high) for low, high in pairwise(edges)]
    log_rho = np.array([rho[ring].log().mean().item() for ring in rings])
    log_power = np.array([power[ring].mean().log().item() for ring in rings])
    return np.polyfit(log_rho, log_power, 1)[0]


@pytest.mark.parametrize("size", [32, (40, 28)])
def test_dead_leaves_have_the_spectrum_of_photographs(size):
    x = events(DeadLeaves(size=size), 250)
    assert -2.3 < spectral_slope(x) < -1.7


def test_spectral_slope_measures_what_it_says():
    x = events(GaussianField(size=(32, 48), power=3.0), 200)
    flat = events(GaussianField(size=(32, 48), power=0.0), 200)
    assert -3.0 < spectral_slope(x) < -2.3  # the offset ρ_1 flattens the low end
    assert abs(spectral_slope(flat)) < 0.1


def test_dead_leaves_use_the_whole_range_and_correlate_channels():
    x = events(DeadLeaves(size=(24, 36)), 60)
    assert torch.isfinite(x).all()
    assert x.min() == -1
    assert x.max() == 1
    assert 0.4 < x.std() < 0.7
    correlation = torch.corrcoef(x.permute(1, 0, 2, 3).flatten(1))
    assert ((correlation > 0.7) & (correlation < 0.95)).sum() == 6  # every pair of different channels


def test_dead_leaves_are_disks_in_every_direction():
    """Borders, rows and columns look alike: leaves also fall from outside, and no axis is preferred."""
    x = events(DeadLeaves(size=(24, 36), channels=1), 300)[:, 0]
    across, down = (x.diff(dim=axis).square().mean().item() for axis in (1, 2))
    assert abs(math.log(across / down)) < 0.05
    inner, rim = x[:, 6:-6, 6:-6].diff(dim=2).square().mean().item(), x[:, :3].diff(dim=2).square().mean().item()
    assert abs(math.log(inner / rim)) < 0.15


@pytest.mark.parametrize("version", [1, 2])
def test_dead_leaves_cover_every_point_when_rounds_are_small(monkeypatch, version):
    monkeypatch.setattr("gendiff_plugins.data.dead_leaves.MOST_LEAVES", 40)
    data = DeadLeaves(size=(11, 8), version=version)
    assert torch.isfinite(events(data, 5)).all()
    assert all(data[k].unique().numel() > 5 for k in range(5))


def test_front_leaves_hide_later_rounds(monkeypatch):
    """A round may only fill what is still bare: the first disk over a point is the one that shows."""
    wide = 1000.0  # disks so large that their rims are straight: one over the upper half of the picture, two over all of it
    upper = Leaves(np.array([8 - wide]), np.array([9.0]), np.array([wide]), np.array([[0.5]], dtype=np.float32))
    both = (
        np.array([8.0, 8.0]),
        np.array([9.0, 9.0]),
        np.array([wide, wide]),
        np.array([[-0.5, 0.25]], dtype=np.float32),
    )
    rounds = iter([upper, Leaves(*both)])
    monkeypatch.setattr(DeadLeaves, "_leaves", lambda self, generator, bare: next(rounds))
    x = DeadLeaves(size=(8, 9), channels=1)[0][0]
    assert x[:, 4].tolist() == [0.5] * 4 + [0.25] * 4


def drawn_disk_by_disk(leaves, height, width):
    """By testing every point against every disk."""
    expected = np.full((height, width), -1)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    for leaf, (y, x, r) in enumerate(zip(leaves.y, leaves.x, leaves.r, strict=True)):
        expected[(rows - y) ** 2 + (columns - x) ** 2 <= r**2] = leaf
    return expected


@pytest.mark.parametrize("together", [2**14, 60, 1])
def test_a_round_of_leaves_matches_the_definition(monkeypatch, together):
    monkeypatch.setattr("gendiff_plugins.data.dead_leaves.TOGETHER", together)
    data = DeadLeaves(size=(8, 13), channels=1, r_max=0.5)
    leaves = data._leaves(torch.Generator().manual_seed(4), 8)
    few = Leaves(leaves.y[:20], leaves.x[:20], leaves.r[:20], leaves.colour[:, :20])
    for some in (leaves, few):
        expected = drawn_disk_by_disk(some, 16, 26)
        assert np.array_equal(some.front(16, 26).reshape(16, 26), expected)
        assert np.array_equal(some.over(np.arange(16 * 26), 26).reshape(16, 26), expected)
    assert (expected == -1).any()
    assert len(np.unique(expected)) > 5


#: Parameters, and of events 0 and 7 six pixels of one column, as the code gave them that drew them first.
FIRST_VERSION = [
    (
        {"size": 32},
        [
            [1.0, -1.0, -1.0, -0.73776, -0.217822, 0.042905],
            [0.095005, 0.160094, -0.056342, -0.867853, -0.739475, -0.739475],
        ],
    ),
    (
        {"size": (9, 20), "channels": 1, "r_min": 0.5, "r_max": 1.0, "seed": 3},
        [[0.617266, -0.088686, 0.617266], [0.091279, 0.384867, 0.384867]],
    ),
]


@pytest.mark.parametrize(("parameters", "columns"), FIRST_VERSION)
def test_dead_leaves_of_the_first_version_are_the_pictures_that_they_were(parameters, columns):
    data = DeadLeaves(**parameters, version=1)
    for index, column in zip((0, 7), columns, strict=True):
        assert data[index][0, ::3, 4][:6].tolist() == pytest.approx(column, abs=1e-5)
    assert data.fingerprint.startswith("dead-leaves/1 ")


def radii_over_points(data, count):
    """The radius of the disk that shows at the middle of each of many pictures, in pixels."""
    H, W = (2 * side for side in data.event_shape[1:])
    middle, radii = np.array([H // 2 * W + W // 2]), []
    for index in range(count):
        generator = stream(0, "radii", index)
        leaf = np.array([-1])
        while leaf[0] < 0:
            leaves = data._fallen(generator, 50)
            leaf = leaves.over(middle, W)
        radii.append(leaves.r[leaf[0]] / 2)
    return np.array(radii)


@pytest.mark.parametrize("version", [1, 2])
def test_the_leaf_over_a_point_has_a_radius_that_is_uniform_in_its_logarithm(version):
    """Of p(r) ∝ r^-3 the disks over a point have the density r^2 p(r) ∝ 1/r, wherever the point is."""
    data = DeadLeaves(size=(8, 12), r_max=2.0, version=version)
    u = np.log(radii_over_points(data, 800)) / math.log(24)
    assert kstest(u, "uniform").pvalue > 1e-3


def test_both_versions_of_dead_leaves_have_one_distribution():
    """Edges and levels of many pictures, by their two-sample statistic."""
    one, two = (events(DeadLeaves(size=(10, 14), channels=1, version=version), 500) for version in (1, 2))
    assert not torch.equal(one[0], two[0])
    for of in (lambda x: x[:, 0, 5, 7], lambda x: x[:, 0, 0, 0], lambda x: x.diff(dim=2).abs().mean((1, 2, 3))):
        assert ks_2samp(of(one), of(two)).pvalue > 1e-3


def test_dead_leaves_seeds_are_different_data():
    one, two = DeadLeaves(size=(8, 12)), DeadLeaves(size=(8, 12), seed=1)
    assert not torch.equal(one[0], two[0])
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint != DeadLeaves(size=(12, 8)).fingerprint
    assert DeadLeaves(size=8).fingerprint == DeadLeaves(size=(8, 8)).fingerprint


# --- Gaussian field ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 8), (17,), 6])
def test_variance_is_the_documented_formula(size):
    data = GaussianField(size=size, channels=2, power=1.5, std=0.7)
    sizes = data.event_shape[1:]
    rho_1 = math.pi / max(sizes)
    weights = {}
    for k in np.ndindex(*sizes):
        rho = math.sqrt(sum((math.pi * k_axis / n) ** 2 for k_axis, n in zip(k, sizes, strict=True)))
        weights[k] = (rho + rho_1) ** -1.5
    mean = sum(weights.values()) / len(weights)
    assert data.variance.shape == (1, *sizes)
    assert data.variance.dtype == torch.float64
    for k, weight in weights.items():
        assert data.variance[0][k].item() == pytest.approx(0.49 * weight / mean, rel=1e-12)


def test_field_is_gaussian_with_that_variance_in_the_dct():
    data = GaussianField(size=(5, 8), channels=3, std=0.7)
    n = 3000
    white = dct(events(data, n)) / data.variance.sqrt()
    assert white.mean(dim=0).abs().max() < 5 / math.sqrt(n)
    covariance = torch.cov(white.flatten(1).T)
    assert (covariance - torch.eye(120)).abs().max() < 6 * math.sqrt(2 / n)
    assert (white**4).mean().item() == pytest.approx(3, abs=0.05)


def test_field_of_one_axis():
    data = GaussianField(size=(17,), channels=2, power=0.0)
    n = 2000
    white = events(data, n).double() @ dct_matrix(17) / data.variance.sqrt()
    assert data.event_shape == (2, 17)
    assert (torch.cov(white.flatten(1).T) - torch.eye(34)).abs().max() < 6 * math.sqrt(2 / n)


def test_std_is_the_root_mean_square_of_pixels():
    data = GaussianField(size=(9, 14), std=0.3)
    assert data.variance.mean().item() == pytest.approx(0.09, rel=1e-12)
    assert events(data, 1000).square().mean().sqrt().item() == pytest.approx(0.3, rel=0.03)
    assert data.value_range is None


def test_field_fingerprint_follows_every_parameter():
    base = {"size": (5, 8), "channels": 2, "power": 2.0, "std": 0.5, "seed": 0}
    changes = [{}, {"size": (8, 5)}, {"size": (40,)}, {"channels": 1}, {"power": 1.0}, {"std": 0.25}, {"seed": 1}]
    assert len({GaussianField(**{**base, **change}).fingerprint for change in changes}) == len(changes)


# --- folder: order and geometry ---------------------------------------------------------------------------------------


def test_folder_order_is_the_sorted_relative_path(tmp_path):
    names = ["b.PNG", "a/z.jpg", "a.png", "a/b/c.Tiff", "c.webp", "d.pgm", "é.bmp"]
    for name in names:
        save(tmp_path / name, gradient()[..., 0])
    for name in (".hidden.png", ".cache/x.png", "notes.txt", "png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not looked at")
    data = Folder(path=tmp_path, size=(H, W), channels=1)
    assert list(data._scan.files) == ["a.png", "a/b/c.Tiff", "a/z.jpg", "b.PNG", "c.webp", "d.pgm", "é.bmp"]
    assert data.length == len(events(data, data.length)) == 7


def test_lossless_picture_of_the_right_size_keeps_every_value(tmp_path):
    save(tmp_path / "a.png", gradient())
    data = Folder(path=tmp_path, size=(H, W))
    assert torch.equal(data[0], as_event(gradient()))


def test_black_is_exactly_minus_one_and_white_one(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 9, 3), np.uint8))
    save(tmp_path / "b.png", np.full((4, 9, 3), 255, np.uint8))
    data = Folder(path=tmp_path, size=(6, 5))
    assert torch.equal(data[0], torch.full((3, 6, 5), -1.0))
    assert torch.equal(data[1], torch.full((3, 6, 5), 1.0))


def test_crop_keeps_the_centre_and_none_squeezes(tmp_path):
    tall = np.zeros((30, 12, 3), np.uint8)
    tall[12:18] = 255  # the central 6 rows: what a crop to 6:12 keeps
    save(tmp_path / "tall.png", tall)
    wide = np.zeros((8, 40, 3), np.uint8)
    wide[:, 12:28] = 255
    save(tmp_path / "wide.png", wide)
    cropped = Folder(path=tmp_path, size=(6, 12), crop="center")
    squeezed = Folder(path=tmp_path, size=(6, 12))
    assert torch.equal(cropped[0], torch.ones(3, 6, 12))
    assert torch.equal(cropped[1][:, :, 1:-1], torch.ones(3, 6, 10))
    assert cropped[1].min() > 0.9  # only the filter reaches past the edge
    assert squeezed[0].mean().item() == pytest.approx(2 * 6 / 30 - 1, abs=0.04)
    assert squeezed[1].mean().item() == pytest.approx(2 * 16 / 40 - 1, abs=0.04)


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((32, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    save(tmp_path / "a.png", stripes)
    x = Folder(path=tmp_path, size=(8, 12))[0]
    assert x[:, :, 1:-1].abs().max() < 0.06


def test_path_stays_as_given_and_home_is_expanded(tmp_path, monkeypatch):
    save(tmp_path / "pictures" / "a.png", gradient())
    monkeypatch.setenv("HOME", str(tmp_path))
    data = Folder(path="~/pictures", size=(H, W))
    assert data.table()["path"] == "~/pictures"
    assert data.length == 1
    monkeypatch.chdir(tmp_path)
    relative = Folder(path="pictures", size=(H, W))
    assert relative.table()["path"] == "pictures"
    assert torch.equal(relative[0], data[0])


def test_constructing_reads_nothing():
    assert Folder(path="/nowhere/at/all").size == 64


def test_folder_fingerprint_follows_content_names_and_parameters(tmp_path):
    def fingerprint(folder, **parameters):
        return Folder(**{"path": tmp_path / folder, "size": (H, W), **parameters}).fingerprint

    save(tmp_path / "one" / "a.png", gradient())
    save(tmp_path / "moved" / "a.png", gradient())
    save(tmp_path / "renamed" / "b.png", gradient())
    save(tmp_path / "changed" / "a.png", np.zeros((H, W, 3), np.uint8))
    assert fingerprint("one") == fingerprint("moved")
    for name, shade in (("black", 0), ("dark", 1)):  # files of one size, which differ in their last rows only
        v = np.zeros((60, 80, 3), np.uint8)
        v[-3:] = shade
        save(tmp_path / name / "a.bmp", v[::-1])
    assert (tmp_path / "black" / "a.bmp").stat().st_size == (tmp_path / "dark" / "a.bmp").stat().st_size
    different = [
        fingerprint("black"),
        fingerprint("dark"),
        fingerprint("one"),
        fingerprint("renamed"),
        fingerprint("changed"),
        fingerprint("one", size=(W, H)),
        fingerprint("one", channels=1),
        fingerprint("one", crop="center"),
    ]
    assert len(set(different)) == len(different)


# --- folder: kinds of pictures ----------------------------------------------------------------------------------------


def test_16_bit_grey_is_scaled_and_not_cut_off(tmp_path):
    v = (np.arange(H * W, dtype=np.uint16) * 1092).reshape(H, W)  # 0..64428
    save(tmp_path / "a.png", v)
    save(tmp_path / "b.tif", v)
    Image.fromarray(v.astype(">u2")).save(tmp_path / "c.tif")
    (tmp_path / "d.pgm").write_bytes(f"P5 {W} {H} 65535\n".encode() + v.astype(">u2").tobytes())
    data = Folder(path=tmp_path, size=(H, W), channels=1)
    expected = as_event(np.round(v / 257).astype(np.uint8)[..., None])
    for index in range(4):
        assert torch.equal(data[index], expected), data._names[index]


def test_16_bit_colour_keeps_its_high_byte(tmp_path):
    rows = [b"".join(struct.pack(">HHH", 40000 + 257 * x, 257 * x, 65535) for x in range(W)) for _ in range(H)]
    (tmp_path / "a.png").write_bytes(png(W, H, 16, 2, rows))
    x = (Folder(path=tmp_path, size=(H, W))[0] + 1) * 127.5
    assert x[:, 0, 1].tolist() == pytest.approx([157, 1, 255], abs=1e-4)


def test_palette_and_bilevel(tmp_path):
    indexed = Image.fromarray((np.arange(H * W) % 3).astype(np.uint8).reshape(H, W), mode="P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.save(tmp_path / "a.png")
    bilevel = Image.fromarray(((np.arange(H * W) % 2) * 255).astype(np.uint8).reshape(H, W)).convert("1")
    bilevel.save(tmp_path / "b.png")
    data = Folder(path=tmp_path, size=(H, W))
    assert torch.equal(data[0], as_event(np.eye(3, dtype=np.uint8)[np.arange(H * W) % 3].reshape(H, W, 3) * 255))
    assert data[1][:, 0, :2].T.tolist() == [[-1, -1, -1], [1, 1, 1]]


def test_grey_becomes_colour_and_colour_luma(tmp_path):
    save(tmp_path / "a.png", gradient()[..., 0])
    save(tmp_path / "b.png", gradient())
    colour, grey = (Folder(path=tmp_path, size=(H, W), channels=channels) for channels in (3, 1))
    assert torch.equal(colour[0], as_event(gradient()[..., :1]).expand(3, H, W))
    luma = (gradient() @ np.array([0.299, 0.587, 0.114]))[..., None]
    assert torch.allclose((grey[1] + 1) * 127.5, torch.from_numpy(luma).permute(2, 0, 1).float(), atol=1)


def test_cmyk_jpeg_shows_the_colour_that_was_stored(tmp_path):
    red = Image.new("RGB", (W, H), (255, 0, 0)).convert("CMYK")
    red.save(tmp_path / "a.jpg", quality=95)
    x = Folder(path=tmp_path, size=(H, W))[0]
    assert torch.allclose(x.mean(dim=(1, 2)), torch.tensor([1.0, -1.0, -1.0]), atol=0.05)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda v: v), (3, lambda v: v[::-1, ::-1]), (6, lambda v: np.rot90(v, -1)), (8, lambda v: np.rot90(v))],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turn):
    stored = np.kron(gradient(3, 5), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.jpg", stored, exif=exif, quality=100, subsampling=0)
    upright = np.ascontiguousarray(turn(stored))
    x = Folder(path=tmp_path, size=upright.shape[:2])[0]
    assert (x - as_event(upright)).abs().mean() < 0.02


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, and goes on
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    blocks = [b"garbage garbage", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x09"]
    for number, exif in enumerate(blocks):
        save(tmp_path / f"{number}.jpg", np.full((H, W, 3), 200, np.uint8), exif=b"Exif\0\0" + exif)
    data = Folder(path=tmp_path, size=(H, W))
    for x in events(data, 3):
        assert (x - (200 / 127.5 - 1)).abs().max() < 0.03


def test_animation_gives_its_first_frame(tmp_path):
    red, blue = (Image.new("RGB", (W, H), colour) for colour in ("red", "blue"))
    for name in ("a.gif", "b.webp", "c.png"):
        red.save(tmp_path / name, save_all=True, append_images=[blue, blue], duration=50, lossless=True)
    data = Folder(path=tmp_path, size=(H, W))
    for x in events(data, 3):
        assert torch.allclose(x, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, H, W), atol=0.02)


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((H, W, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:, :5, 3], rgba[:, 5:, 3] = 0, 128
    save(tmp_path / "a.png", rgba)
    indexed = Image.new("P", (W, H), 0)
    indexed.putpalette([0, 0, 0, 9, 9, 9])
    indexed.save(tmp_path / "b.png", transparency=0)
    Image.fromarray(np.zeros((H, W), np.uint16)).save(tmp_path / "c.png", transparency=0)
    save(tmp_path / "d.png", rgba[..., 2:])  # grey and alpha
    data = Folder(path=tmp_path, size=(H, W))
    x = (data[0] + 1) * 127.5
    assert torch.allclose(x[:, :, 0], torch.full((3, H), 255.0))
    assert torch.allclose(x[:, :, 9], torch.tensor([255.0, 127.0, 127.0])[:, None].expand(3, H))
    assert torch.equal(data[1], torch.ones(3, H, W))
    assert torch.equal(data[2], torch.ones(3, H, W))
    assert torch.allclose((data[3][:, 0] + 1) * 127.5, torch.tensor([255.0] * 5 + [127.0] * 5).expand(3, W))


# --- folder: what is bad is named -------------------------------------------------------------------------------------


def error_of(action):
    with pytest.raises(DataError) as caught:
        action()
    error = caught.value
    assert error.exit_code == 4
    assert error.what
    assert error.where or error.subject
    assert error.fix
    return error


def test_missing_folder(tmp_path):
    error = error_of(lambda: Folder(path=tmp_path / "nothing").event_shape)
    assert str(tmp_path / "nothing") in error.what


def test_path_that_is_a_file(tmp_path):
    error = error_of(lambda: Folder(path=save(tmp_path / "a.png", gradient())).length)
    assert "is a file" in error.what
    assert str(tmp_path) in error.fix


def test_home_of_nobody():
    error = error_of(lambda: Folder(path="~no-such-user-here/x").length)
    assert "~no-such-user-here" in error.what


def test_empty_folder(tmp_path):
    assert "empty" in error_of(lambda: Folder(path=tmp_path).length).what


def test_folder_without_images_says_what_is_there(tmp_path):
    for name in ("a.txt", "b.txt", "c.json", "README"):
        (tmp_path / name).write_text("text")
    error = error_of(lambda: Folder(path=tmp_path).length)
    assert "among the 4 files" in error.what
    assert ".txt (2), .json (1), no ending (1)" in str(error)
    assert ".webp" in str(error)


def test_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    save(tmp_path / "a.png", gradient())
    save(tmp_path / "locked" / "b.png", gradient())
    scandir = os.scandir

    def refusing(path):  # a real chmod would not stop the superuser
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    error = error_of(lambda: Folder(path=tmp_path).length)
    assert "locked" in error.what
    assert "Permission denied" in error.details


def bad_file(kind, folder):
    """Write a bad file of that kind, whose damage the header shows; return a word that the message must have."""
    path = folder / f"{kind}.png"
    if kind == "empty":
        path.write_bytes(b"")
        return "0 bytes"
    if kind == "text":
        path.write_text("this is not a picture")
        return "not an image"
    if kind == "postscript":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
        return "not an image"
    if kind == "bomb":
        path.write_bytes(png(4000, 3000, 1, 0, [bytes(500)] * 3000))
        return "4000x3000"
    if kind == "giant":
        path.write_bytes(png(60000, 60000, 1, 0, [b"\0"]))
        return "exceeds limit"
    if kind == "pipe":
        os.mkfifo(path)
        return "not a regular file"
    if kind == "dangling":
        path.symlink_to(folder / "gone.png")
        return "No such file"
    raise AssertionError(kind)


HEADER_DAMAGE = ["empty", "text", "postscript", "bomb", "giant", "pipe", "dangling"]


@pytest.mark.parametrize("kind", HEADER_DAMAGE)
def test_bad_header_is_named_at_first_use(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)
    save(tmp_path / "a.png", gradient())
    word = bad_file(kind, tmp_path)
    error = error_of(lambda: Folder(path=tmp_path).event_shape)
    assert error.what == "1 of 2 image files cannot be read"
    assert any(f"{kind}.png" in line and word in line for line in error.details), error.details


@pytest.mark.parametrize("kind", [*HEADER_DAMAGE, "truncated"])
def test_skip_leaves_bad_files_out_and_counts_them(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)
    save(tmp_path / "a.png", gradient())
    save(tmp_path / "z.png", gradient()[::-1])
    if kind == "truncated":
        word = "truncated"
        whole = save(tmp_path / "truncated.png", np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))
        whole.write_bytes(whole.read_bytes()[:2000])
    else:
        word = bad_file(kind, tmp_path)
    data = Folder(path=tmp_path, size=(H, W), on_bad_image="skip")
    with pytest.warns(UserWarning, match=r"1 of 3 image files cannot be read and are left out") as caught:
        assert data.length == 2
    assert len(caught) == 1
    assert torch.equal(data[1], as_event(gradient()[::-1].copy()))
    ((path, why),) = data.skipped
    assert path == f"{kind}.png"
    assert word in why


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    save(tmp_path / "a.png", gradient())
    save(tmp_path / "secret.png", gradient())
    os_open = os.open

    def refusing(path, *arguments, **options):  # a real chmod would not stop the superuser
        if Path(path).name == "secret.png":
            raise PermissionError(13, "Permission denied", str(path))
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    error = error_of(lambda: Folder(path=tmp_path).length)
    assert error.details[0] == "secret.png: Permission denied"


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tif", "webp", "bmp", "ppm"])
def test_truncated_file_is_named_when_wanted(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    path = save(tmp_path / f"deep/a.{ending}", noise)
    save(tmp_path / "deep/b.png", gradient())
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])

    def read_all():
        data = Folder(path=tmp_path, size=(H, W))
        return events(data, data.length)

    error = error_of(read_all)
    assert f"deep/a.{ending}" in str(error)
    assert "on_bad_image=skip" in error.fix


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    """Whatever a damaged file does to Pillow, the answer is an event or a `DataError` that names the file."""
    random = np.random.default_rng(1)
    whole = {}
    for ending in ("png", "jpg", "gif", "tif", "webp", "ppm"):
        whole[ending] = save(tmp_path / f"whole.{ending}", gradient(13, 17)).read_bytes()
    named = 0
    for ending, content in whole.items():
        folder = tmp_path / ending
        folder.mkdir()
        for _ in range(25):
            damaged = bytearray(content)
            for position in random.integers(0, len(damaged), 4):
                damaged[position] ^= 1 << int(random.integers(8))
            (folder / f"x.{ending}").write_bytes(damaged)
            try:
                outcome = Folder(path=folder, size=(H, W))[0]
            except DataError as error:
                outcome = error
            if isinstance(outcome, DataError):
                assert f"x.{ending}" in str(outcome)
                named += 1
            else:
                assert outcome.shape == (3, H, W)
    assert named > 20


def test_grey_of_32_bits_is_refused(tmp_path):
    save(tmp_path / "a.tif", np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W))
    save(tmp_path / "b.tif", np.arange(H * W, dtype=np.int32).reshape(H, W))
    data = Folder(path=tmp_path, size=(H, W))
    for index, name in enumerate(["a.tif", "b.tif"]):
        error = error_of(lambda index=index: data[index])
        assert name in error.what
        assert "32 bits" in str(error)


def test_many_bad_files_make_a_short_message(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    for choice in ("error", "skip"):
        error = error_of(lambda choice=choice: Folder(path=tmp_path, on_bad_image=choice).length)
        assert error.what == "20 of 20 image files cannot be read"
        assert len(error.details) == SHOWN + 1
        assert error.details[-1] == "and 15 more"


def test_pixel_limit_can_be_lifted_as_pillow_documents(tmp_path, monkeypatch):
    (tmp_path / "large.png").write_bytes(png(400, 300, 1, 0, [bytes(50)] * 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    assert "400x300" in str(error_of(lambda: Folder(path=tmp_path).length))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert torch.equal(Folder(path=tmp_path, size=(H, W))[0], torch.full((3, H, W), -1.0))


def test_file_damaged_after_the_first_look_is_named(tmp_path):
    path = save(tmp_path / "a.png", gradient())
    data = Folder(path=tmp_path, size=(H, W))
    assert data.length == 1
    path.write_bytes(b"")
    assert "a.png" in error_of(lambda: data[0]).what


def test_a_data_error_crosses_processes(tmp_path):
    error = error_of(lambda: Folder(path=tmp_path / "nothing").length)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
