"""What a velocity promises: scales for any rotation, event and N that it takes, which only ever destroy."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.rotation import Rotation
from gendiff.scales import of_formulas
from gendiff.streams import stream
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothNoise, fitted, fitted_velocity, listed, undisturbed
from gendiff.testing.steps import destroys, terminal
from gendiff.velocity import Velocity

_SCALES = "`scales(rotation, event_shape, N)`, and the schedules that it owns"
SHAPES = ((2, 5, 7), (1, 12), (1, 8, 8), (1, 16))


@check("velocity", "information is only ever destroyed, and the steps compose to the marginal", _SCALES)
def process(velocity: Velocity) -> str:
    """In every basis that it takes, for pictures and signals."""
    return _each(list(_processes(velocity, (8, 200))))


@check("velocity", "its scales are those of N steps, for any steps in any order", _SCALES)
def steps(velocity: Velocity) -> str:
    """Looked up in a batch or one by one, and wherever their tables live."""
    for diffusion in _processes(velocity, (20,)):
        require(diffusion.N == 20, "N = 20", str(diffusion.N))
        i = torch.tensor([20, 3, 3, 11])
        together = diffusion.scales.log_a(i)
        alone = torch.cat([diffusion.scales.log_a(one[None]) for one in i])
        same = torch.allclose(together, alone, rtol=1e-12, atol=1e-12)
        require(same, "the same log a in a batch and alone", "others")
        scales = diffusion.scales.to(torch.device("cpu"))
        same = scales.N == 20 and torch.equal(scales.log_s(i), diffusion.scales.log_s(i))
        require(same, "the same N and log s after .to(device)", "others")
        if formulas := diffusion.scales.formulas:  # which a run keeps, while samplers ask the methods
            from_formulas = of_formulas(20, formulas)
            same = torch.equal(from_formulas.log_a(i), together) and torch.equal(
                from_formulas.log_s(i), diffusion.scales.log_s(i)
            )
            require(same, "formulas that say what its methods say", "others")
    return "the same in any batch"


@check("velocity", "what it learns from data follows from data and rotation alone", "`fit(data, rotation)`")
def fits(velocity: Velocity) -> str:
    """The same tensors each time, and no random number drawn."""
    for diffusion in _processes(velocity, (20,)):
        data = SmoothNoise(shape=diffusion.event_shape)
        with undisturbed():
            first = velocity.fit(data, diffusion.rotation)
        second = velocity.fit(data, diffusion.rotation)
        require(first.keys() == second.keys(), "the same names each time", f"{sorted(first)} and {sorted(second)}")
        for name, value in first.items():
            require(torch.equal(value, second[name]), f"the same '{name}' each time", "another")
        learned = ", ".join(sorted(first))
    return f"learns {learned}" if learned else "learns nothing"


@check(
    "velocity", "what it learns with a network moves its scales, and λ never rises", "`trained`, `scales` and `written`"
)
def learns(velocity: Velocity) -> str:
    """Whatever the tensors are, through a gradient that is finite; and what was learned can be begun from."""
    count = 0
    for diffusion in _processes(velocity, (20,)) if velocity.trained else ():
        shape, rotation = diffusion.event_shape, diffusion.rotation
        begun = velocity.fit(SmoothNoise(shape=shape), rotation)
        missing = set(velocity.trained) - set(begun)
        require(not missing, "fit gives what is trained", f"no {', '.join(sorted(missing))}")
        free = {
            name: begun[name].double() + torch.randn(begun[name].shape, generator=stream(0, name), dtype=torch.float64)
            for name in velocity.trained
        }
        learned = {**begun, **{name: value.requires_grad_() for name, value in free.items()}}
        scales = velocity.with_learned(learned).scales(rotation, shape, 20)
        with torch.no_grad():
            destroys(scales, shape)
        lam = scales.half_log_snr(torch.arange(1, 21)).square().sum()
        gradient = torch.autograd.grad(lam, list(free.values()), allow_unused=True) if lam.requires_grad else [None]
        moved = all(one is not None and bool(one.isfinite().all()) and bool(one.any()) for one in gradient)
        require(moved, "a gradient of λ at steps 1..N in each, finite and not 0", "none")
        table = velocity.table_at({name: value.detach() for name, value in learned.items()})
        again = fitted_velocity(type(velocity).model_validate(table), rotation, shape)
        same = torch.allclose(
            again.scales(rotation, shape, 20).log_s(torch.tensor([7])), scales.log_s(torch.tensor([7])), atol=1e-3
        )
        require(same, "scales that its `written` parameters give again", "others")
        count += 1
    return f"learns {', '.join(velocity.trained)}, in {count} processes" if count else "learns nothing with a network"


@check("velocity", "its terminal signal-to-noise ratio", _SCALES)
def terminal_snr(velocity: Velocity) -> str:
    """A measurement: sampling starts from noise, so what is left at N is missing."""
    return "; ".join(sorted({terminal(diffusion.scales) for diffusion in _processes(velocity, (1000,))}))


def _processes(
    velocity: Velocity, Ns: tuple[int, ...], shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> Iterator[Diffusion]:
    count = 0
    refusals = set()
    for basis in ("identity", "dct"):
        rotation = component_class("rotation", basis).model_validate({})
        assert isinstance(rotation, Rotation)
        for shape in shapes:
            for N in Ns:
                try:
                    ready = fitted(rotation, shape)
                    recipe = fitted_velocity(velocity, ready, shape)
                    diffusion = Diffusion(ready, recipe.scales(ready, shape, N), shape)
                except ConfigError as error:
                    refusals.add(error.what)
                    continue
                count += 1
                yield diffusion
    require(count > 0, "a basis, shape and N that it takes", "; ".join(sorted(refusals)))


def _each(diffusions: list[Diffusion]) -> str:
    results = [destroys(diffusion.scales, diffusion.event_shape) for diffusion in diffusions]
    bases = sorted({diffusion.rotation.name for diffusion in diffusions})
    shapes = listed(dict.fromkeys(diffusion.event_shape for diffusion in diffusions))
    return f"{len(results)} processes in {', '.join(bases)}, of {shapes}; {results[-1]}"
