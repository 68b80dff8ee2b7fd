"""Averages made of snapshots are those that would have been tracked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gendiff.errors import ConfigError, DataError
from gendiff.run import checkpoint, posthoc
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.posthoc import Profile

KEPT = (0.05, 0.1)


def density(profile, tau):
    return torch.where(
        tau <= profile.t, (profile.gamma + 1) * tau**profile.gamma / profile.t ** (profile.gamma + 1), 0.0
    )


class TestProfile:
    @pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
    def test_exponents_are_the_published_ones(self, width, gamma):
        assert Profile(width, 1).gamma == pytest.approx(gamma, abs=5e-3)

    @pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
    def test_the_width_is_the_standard_deviation_in_parts_of_the_run(self, width):
        t = 300.0
        tau = (torch.arange(300_000, dtype=torch.float64) + 0.5) * t / 300_000
        p = density(Profile(width, t), tau) * t / 300_000
        mean = (p * tau).sum()
        assert float(p.sum()) == pytest.approx(1, abs=1e-6)
        assert float((p * (tau - mean) ** 2).sum().sqrt()) / t == pytest.approx(width, rel=1e-4)

    @pytest.mark.parametrize(
        ("one", "other"), [((0.05, 70), (0.1, 100)), ((0.2, 30), (0.2, 30)), ((0.02, 90), (0.25, 11))]
    )
    def test_products_are_integrals(self, one, other):
        p, q = Profile(*one), Profile(*other)
        tau = (torch.arange(10**6, dtype=torch.float64) + 0.5) * 100 / 10**6
        assert p.product(q) == pytest.approx(float((density(p, tau) * density(q, tau)).mean() * 100), rel=1e-4)
        assert p.product(q) == pytest.approx(q.product(p))

    def test_tracking_weighs_each_step_by_the_profile(self):
        """The weights of 40 steps after the recursion are the profile over each step."""
        weights = torch.zeros(40, dtype=torch.float64)
        for t in range(1, 41):
            beta = Profile(0.1, t).decay()
            weights = beta * weights + (1 - beta) * torch.eye(40, dtype=torch.float64)[t - 1]
        ends = (torch.arange(41, dtype=torch.float64) / 40) ** (Profile(0.1, 40).gamma + 1)
        torch.testing.assert_close(weights, ends.diff())
        assert Profile(0.1, 1).decay() == 0  # no trace of the initial weights


def path_of(step: int) -> torch.Tensor:
    """Weights on their way: they settle, drift and shake."""
    k = torch.arange(1, 7, dtype=torch.float64).reshape(2, 3)
    return torch.exp(-step / (40 * k)) + step / (500 * k) + 0.3 * torch.sin(step * k / 9)


def tracked(widths, steps: int, folder: Path | None = None, every: int = 1) -> dict[float, torch.Tensor]:
    averages = {width: torch.zeros(2, 3, dtype=torch.float64) for width in widths}
    for step in range(1, steps + 1):
        for width, average in averages.items():
            averages[width] = average.lerp(path_of(step), 1 - Profile(width, step).decay())
        if folder and (step % every == 0 or step == steps):
            groups = {
                f"posthoc-{width}": {"w": value.float(), "count": torch.tensor(step)}
                for width, value in averages.items()
            }
            checkpoint.save(folder, Checkpoint(step, groups, {}, {}), keep=10**6)
    return averages


class TestReconstruction:
    @pytest.fixture(scope="class")
    def snapshots(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("snapshots")
        tracked(KEPT, 640, folder, every=20)
        return folder

    @pytest.mark.parametrize("width", [0.03, 0.05, 0.07, 0.1, 0.15, 0.2])
    def test_any_width_is_the_one_that_was_tracked(self, snapshots, width):
        wanted = tracked([width], 640)[width]
        made = posthoc.average(snapshots, width, 640)
        others = tracked([0.05, 0.1, 0.2], 640)
        apart = (others[0.05] - others[0.2]).abs().max()  # how much the width matters here
        assert float((made["w"] - wanted).abs().max()) < 0.02 * float(apart)
        assert made["w"].dtype == torch.float32
        assert int(made["count"]) == 640

    def test_what_was_tracked_comes_back(self, snapshots):
        wanted = tracked(KEPT, 640)
        for width in KEPT:
            torch.testing.assert_close(
                posthoc.average(snapshots, width, 640)["w"].double(), wanted[width], rtol=1e-6, atol=1e-6
            )

    def test_of_an_earlier_step_too(self, snapshots):
        wanted = tracked([0.1], 320)[0.1]
        assert torch.allclose(posthoc.average(snapshots, 0.1, 339)["w"].double(), wanted, atol=1e-6)

    def test_a_width_that_snapshots_do_not_reach_is_said(self, tmp_path):
        tracked(KEPT, 40, tmp_path, every=20)
        with pytest.warns(UserWarning, match=r"the average of width 0.01 is \d+% off"):
            posthoc.average(tmp_path, 0.01, 40)

    def test_a_damaged_snapshot_is_passed_over_and_named(self, snapshots, tmp_path):
        tracked(KEPT, 640, tmp_path, every=20)
        file = checkpoint.directory(tmp_path, 300) / "posthoc-0.1.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        problems = []
        made = posthoc.average(tmp_path, 0.15, 640, problems)
        assert "posthoc-0.1.safetensors is damaged" in problems[0]
        assert torch.allclose(made["w"], posthoc.average(snapshots, 0.15, 640)["w"], atol=2e-3)

    @pytest.mark.parametrize("width", [0, -0.1, 0.3, math.nan])
    def test_widths_of_no_profile_are_refused(self, snapshots, width):
        with pytest.raises(ConfigError, match="no average has the relative width"):
            posthoc.average(snapshots, width, 640)

    def test_no_snapshots(self, tmp_path):
        with pytest.raises(DataError, match="there are no snapshots up to step 7"):
            posthoc.average(tmp_path / "none", 0.1, 7)

    @pytest.mark.parametrize("group", ["model", "posthoc-x", "posthoc-0.9", "posthoc-nan"])
    def test_files_of_another_kind_are_no_snapshots(self, tmp_path, group):
        checkpoint.save(tmp_path, Checkpoint(3, {group: {"w": torch.ones(2)}}, {}, {}), keep=9)
        with pytest.raises(DataError, match="there are no snapshots") as caught:
            posthoc.average(tmp_path, 0.1, 3)
        assert "no average with a relative width" in caught.value.details[0]

    def test_values_that_are_not_finite_are_refused(self, tmp_path):
        groups = {"posthoc-0.1": {"w": torch.tensor([1.0, math.inf])}}
        checkpoint.save(tmp_path, Checkpoint(3, groups, {}, {}), keep=9)
        with pytest.raises(DataError, match="not finite"):
            posthoc.average(tmp_path, 0.1, 3)
