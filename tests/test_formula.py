"""Formulas: what they compute, and that they come back from a file without any code of their author."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch
from gendiff_plugins.velocities.soft_conditioning import LinearLogSNRScales
from gendiff_plugins.velocities.spectrum_matched import GeodesicScales
from torch import Tensor

from gendiff import Diffusion, Rotation, Scales, VariancePreserving
from gendiff.errors import DataError, PluginError
from gendiff.formula import (
    OPERATIONS,
    Formula,
    exp,
    expm1,
    log,
    log1p,
    logaddexp,
    logsigmoid,
    maximum,
    over_components,
    over_time,
    read,
    written,
)
from gendiff.run.stored import FORMULAS, StoredProcess, dump
from gendiff.scales import BlurScales, ColouredScales, DissipatingScales, FormulaVariancePreserving, of_formulas, picked

N, EVENT = 5, (2, 3, 4)
T = torch.linspace(0.1, 1.1, N + 1, dtype=torch.float64)
K = torch.linspace(-2, -0.5, 24, dtype=torch.float64).reshape(EVENT)
STEPS = torch.tensor([0, 5, 2, 2])
t, k = over_time(T), over_components(K)
at = T[STEPS].reshape(-1, 1, 1, 1)

VALUES = {
    "+": (t + k, at + K),
    "number +": (1.5 + t, at + 1.5),
    "-": (t - k, at - K),
    "number -": (1.5 - t, 1.5 - at),
    "*": (t * k, at * K),
    "number *": (2 * t * k, 2 * at * K),
    "/": (k / t, K / at),
    "neg": (-k, -K[None]),
    "exp": (exp(t * k), torch.exp(at * K)),
    "expm1": (expm1(t * k), torch.expm1(at * K)),
    "log": (log(t), torch.log(at)),
    "log1p": (log1p(t), torch.log1p(at)),
    "logsigmoid": (logsigmoid(t * k), -torch.log(1 + torch.exp(-at * K))),
    "logaddexp": (logaddexp(t, k), torch.log(torch.exp(at) + torch.exp(K))),
    "maximum": (maximum(t + k, -0.7), (at + K).clamp_min(-0.7)),
}


@pytest.mark.parametrize("name", VALUES)
def test_it_is_what_torch_computes(name):
    formula, expected = VALUES[name]
    torch.testing.assert_close(formula(STEPS, 3).expand(4, *EVENT), expected.expand(4, *EVENT), rtol=1e-14, atol=1e-14)


def test_every_operation_is_looked_at():
    assert OPERATIONS.keys() <= {formula.operation for formula, _ in VALUES.values()}


@pytest.mark.parametrize("name", VALUES)
def test_it_comes_back_to_the_same_bits(name):
    formula, tables = VALUES[name][0], dict[str, Tensor]()
    text = json.dumps(written(formula, tables))
    again = read(json.loads(text), tables)
    assert torch.equal(again(STEPS, 3), formula(STEPS, 3))


DEEP = ["time", "t"]
for _ in range(60):
    DEEP = ["neg", DEEP]
WIDE = ["time", "t"]
for _ in range(9):
    WIDE = ["+", WIDE, WIDE]


@pytest.mark.parametrize(
    "value",
    [
        [],
        "time",
        None,
        {"+": 1},
        ["time"],
        ["time", "gone"],
        ["time", "k"],  # no vector
        ["time", "t", "t"],
        ["components", 3],
        ["components", "half"],  # another type of number
        ["eval", ["time", "t"]],
        ["exp", ["time", "t"], 1],
        ["+", ["time", "t"]],
        ["+", ["time", "t"], True],
        ["+", ["time", "t"], "1"],
        ["+", ["time", "t"], math.inf],
        DEEP,
        WIDE,
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_formula_is_refused(value):
    with pytest.raises(ValueError, match="formula"):
        read(value, {"t": T, "k": K, "half": K.half()})


@dataclass(frozen=True, repr=False)
class Own(VariancePreserving):
    """A third party's: each component falls like a power of its own."""

    time: Tensor
    power: Tensor

    @property
    def N(self) -> int:
        return len(self.time) - 1

    @property
    def formulas(self) -> Mapping[str, Formula]:
        return {"log_alpha_bar": -exp(over_components(self.power) * log(over_time(self.time)))}


def test_a_third_party_s_scales_are_kept_in_kilobytes_and_need_none_of_its_code(tmp_path):
    shape, rotation = (3, 32, 32), Rotation("identity")
    power = torch.rand(shape, dtype=torch.float64) + 0.5  # all components differ: tables would be 25 MB
    own = Own(torch.linspace(0, 9, 1001, dtype=torch.float64), power)
    file = tmp_path / "process.safetensors"
    file.write_bytes(dump(Diffusion(rotation, own, shape)))
    assert len(file.read_bytes()) < 200_000
    again = StoredProcess.load(file).diffusion().scales
    assert type(again) is FormulaVariancePreserving
    i = torch.arange(1001)
    assert torch.equal(again.log_a(i), own.log_a(i))
    assert torch.equal(again.log_s(i), own.log_s(i))
    assert again.to(torch.device("cpu")).device == torch.device("cpu")


def test_scales_that_say_nothing_are_named():
    class Silent(Scales):
        N = 3

    with pytest.raises(PluginError, match="Silent does not say log_a"):
        Silent().log_a(torch.tensor([1]))


@pytest.mark.parametrize("flaw", ["another length", "another name", "no formula", "no table"])
def test_a_file_that_somebody_changed_is_refused(flaw, tmp_path):
    own = Own(T, K.abs())
    content = safetensors.torch.load(dump(Diffusion(Rotation("identity"), own, EVENT)))
    formulas = json.loads(bytes(content[f"scales.{FORMULAS}"].tolist()))
    if flaw == "another length":
        content["scales.time.1"] = torch.cat([T, T])
    elif flaw == "no table":
        del content["scales.time.1"]
    else:
        formulas = {"log_b": formulas["log_alpha_bar"]} if flaw == "another name" else {"log_alpha_bar": 3}
    content[f"scales.{FORMULAS}"] = torch.tensor(list(json.dumps(formulas).encode()), dtype=torch.uint8)
    about = {"format": "2", "N": str(N), "event_shape": json.dumps(EVENT)}
    file = tmp_path / "process.safetensors"
    file.write_bytes(safetensors.torch.save(content, about))
    with pytest.raises(DataError, match="cannot be read"):
        StoredProcess.load(file)


D = torch.linspace(-3, 0, 24, dtype=torch.float64).reshape(EVENT)
L = torch.linspace(0, -4, N + 1, dtype=torch.float64)
ZERO_FIRST = torch.cat(
    [torch.tensor([-torch.inf], dtype=torch.float64), torch.linspace(0.2, 1, N, dtype=torch.float64)]
)
BEFORE = {
    "blur": (BlurScales(L, -L, D), ("log_alpha_bar_noise", "F", "log_D")),
    "heat": (
        DissipatingScales(0 * L, -L - 5, -L, D.exp(), torch.tensor(0.0, dtype=torch.float64)),
        ("log_a_common", "log_s_common", "tau", "mu", "d"),
    ),
    "coloured": (ColouredScales(L, D), ("log_alpha_bar_noise", "log_C")),
    "linear log-SNR": (
        LinearLogSNRScales(ZERO_FIRST, D, torch.tensor(20.0, dtype=torch.float64)),
        ("t", "gamma", "delta"),
    ),
    "geodesic": (GeodesicScales(1 - T.clamp_max(1), D), ("tau", "log_S")),
}


@pytest.mark.parametrize("dealt", [False, True])
@pytest.mark.parametrize("name", BEFORE)
def test_files_of_before_there_were_formulas_give_the_same_bits(name, dealt, tmp_path):
    scales, names = BEFORE[name]
    tensors = {f"scales.{'inner.' * dealt}{field}": getattr(scales, field) for field in names}
    if dealt:
        partner = torch.arange(12).flip(0).reshape(3, 4)
        tensors["scales.partner"] = partner
        scales = picked(scales, partner[None], (3, 4))
    tensors["rotation.frequencies"] = torch.ones(1, 3, 4, dtype=torch.float64)
    about = {"format": "1", "N": str(N), "event_shape": json.dumps(EVENT)}
    file = tmp_path / "process.safetensors"
    file.write_bytes(safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}, about))
    again, i = StoredProcess.load(file).diffusion().scales, torch.arange(N + 1)
    assert torch.equal(again.log_a(i), scales.log_a(i))
    assert torch.equal(again.log_s(i), scales.log_s(i))


@pytest.mark.parametrize("index", [torch.arange(12).flip(0).reshape(3, 4), torch.tensor([7, 0, 7])])
@pytest.mark.parametrize("name", BEFORE)
def test_picked_components_have_the_scales_of_the_others(name, index):
    scales, i = BEFORE[name][0], torch.arange(N + 1)
    some = picked(scales, index[None], (3, 4))
    assert some.formulas
    for value, whole in ((some.log_a(i), scales.log_a(i)), (some.log_s(i), scales.log_s(i))):
        whole = whole.expand(N + 1, *EVENT).flatten(2)
        assert torch.equal(value, whole[..., index.flatten()].unflatten(2, index.shape))


def test_it_is_shown_as_it_is_written():
    assert repr(2.0 * t + exp(k)) == "((2.0 * time(6,)) + exp(components(2, 3, 4)))"
    assert repr(logaddexp(t, k) / k) == "(logaddexp(time(6,), components(2, 3, 4)) / components(2, 3, 4))"


@pytest.mark.parametrize(("depth", "fits"), [(47, True), (48, False)])
def test_how_deep_one_may_be(depth, fits):
    value = ["time", "t"]
    for _ in range(depth):
        value = ["neg", value]
    if fits:
        assert torch.equal(read(value, {"t": T})(STEPS, 3), -at if depth % 2 else at)
        return
    with pytest.raises(ValueError, match="formula"):
        read(value, {"t": T})


FLAT = torch.zeros(EVENT, dtype=torch.float64)


@pytest.mark.parametrize("which", ["log_a", "log_s"])
@pytest.mark.parametrize(("size", "alike"), [(0.0, True), (0.9e-9, True), (1.5e-9, False), (1.0, False)])
def test_scales_are_alike_where_neither_of_both_differs(which, size, alike):
    table = FLAT.clone()
    table[1, 2, 3] = size
    formulas = {"log_a": over_time(-T) + over_components(FLAT), "log_s": over_time(T) + over_components(FLAT)}
    formulas[which] = formulas[which] + over_components(table)
    assert of_formulas(N, formulas).alike == alike


def test_scales_that_part_at_the_last_step_only_are_not_alike():
    last = torch.cat([torch.zeros(N, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    ramp = torch.linspace(-1, 0, 24, dtype=torch.float64).reshape(EVENT)
    assert not of_formulas(N, {"log_alpha_bar": over_time(-T) + over_time(last) * over_components(ramp)}).alike


class Table(Scales):
    """Scales that say no formula: numbers."""

    N = N

    def log_a(self, i):
        return (-T[i])[:, None, None, None] + D

    def log_s(self, i):
        return T[i][:, None, None, None] - 2 * D


def test_picked_components_of_scales_without_a_formula():
    index, i = torch.tensor([7, 0, 7]), torch.arange(N + 1)
    some = picked(Table(), index[None], (3, 4))
    assert not some.formulas
    for value, whole in ((some.log_a(i), Table().log_a(i)), (some.log_s(i), Table().log_s(i))):
        assert torch.equal(value, whole.flatten(2)[..., index])


@pytest.mark.parametrize(("terms", "fits"), [(127, True), (128, False)])  # with as many leaves and one: 255, 257
def test_how_many_operations_one_may_hold(terms, fits):
    leaves = [["time", "t"]] * (terms + 1)  # a balanced sum of n leaves holds n - 1 sums
    while len(leaves) > 1:
        pairs = [["+", one, other] for one, other in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = pairs + ([leaves[-1]] if len(leaves) % 2 else [])
    if fits:
        torch.testing.assert_close(read(leaves[0], {"t": T})(STEPS, 3), (terms + 1) * at)
        return
    with pytest.raises(ValueError, match="a formula of 257 operations"):
        read(leaves[0], {"t": T})
