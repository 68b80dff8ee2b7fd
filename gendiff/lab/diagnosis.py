r"""Diagnosis: what is odd about a process, by rules that are stated.

    destroyed-at-once   a band's data-SNR falls from above +10 dB to below -10 dB within N/50 steps: of 50 sampling steps at most
                        one sees it half destroyed, and whatever the network could decide there is decided in one step.
    never-ends          the data-SNR of a component at N is above -10 dB: x_N still tells of x_0, and a sampler that starts from
                        N(0, s_N²) starts from another distribution than the one the network was trained on.
    blur-in-noise       components differ in speed, and at N some band has lost 3 dB of signal more than the slowest component;
                        yet no band's crossing of data-SNR 1 lies more than N/100 steps from where it would lie if every
                        component moved like the slowest. The data are destroyed as without blur, and what is blurred is noise.

The data-SNR is that of `gendiff.lab.forward`: it depends on the spectrum of the data, and so do the first and the third rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gendiff.component import Component
from gendiff.lab.forward import DECIBEL, BandSNR, first_below
from gendiff.plugin.registry import default_registry
from gendiff.process import Process
from gendiff.schedule import NoiseSchedule
from gendiff.velocity import Velocity

CLEAN, GONE = 10.0, -10.0  # decibel of data-SNR: a band is decided between the two
AT_ONCE = 1 / 50  # of N
NEARBY = 1 / 100  # of N
BLURRED = 3.0  # decibel of signal: half its energy


@dataclass(frozen=True)
class Finding:
    """A rule that applies, and the numbers by which it does."""

    rule: str
    text: str
    numbers: dict[str, float | int | list[float] | list[int]]


def diagnose(snr: BandSNR, velocity: Velocity) -> list[Finding]:
    """Every rule that applies to a process and its data; ``velocity`` is the recipe of its scales."""
    findings = (_destroyed_at_once(snr), never_ends(snr, velocity), _blur_in_noise(snr))
    return [finding for finding in findings if finding is not None]


def _destroyed_at_once(snr: BandSNR) -> Finding | None:
    N = snr.diffusion.N
    spans = list(zip(snr.data_below(CLEAN), snr.data_below(GONE), strict=True))
    fast = {k: (first, last) for k, (first, last) in enumerate(spans) if first and last and last - first < AT_ONCE * N}
    if not fast:
        return None
    k = min(fast, key=lambda k: fast[k][1] - fast[k][0])
    first, last = fast[k]
    span = f"within step {first}" if first == last else f"between step {first} and step {last} of {N}"
    return Finding(
        "destroyed-at-once",
        f"{_bands(snr, list(fast))} destroyed at once: the data-SNR of ρ < {snr.edges[k]:.2f} falls from +10 to -10 dB {span}; "
        "a sampler needs a step grid that is dense there",
        {
            "bands": list(fast),
            "first": [first for first, _ in fast.values()],
            "last": [last for _, last in fast.values()],
        },
    )


def never_ends(snr: BandSNR, velocity: Velocity) -> Finding | None:
    """The rule of that name: whether sampling may start from N(0, s_N²), and what to do about it with such a velocity."""
    diffusion = snr.diffusion
    decibel = torch.broadcast_to(
        diffusion.at(diffusion.N).half_log_snr * DECIBEL + snr.component_data, diffusion.event_shape
    )
    alive = decibel > GONE
    if not alive.any():
        return None
    count, total, highest = int(alive.sum()), alive.numel(), float(decibel.max())
    return Finding(
        "never-ends",
        f"the process does not end: at N = {diffusion.N} the data-SNR of {count} of {total} components is above {GONE:g} dB "
        f"(highest: {highest:+.1f} dB), so N(0, s_N²) is not where it ends; {_another_start(velocity)}",
        {"components": count, "of": total, "highest_db": highest},
    )


def _another_start(velocity: Velocity) -> str:
    if has_noise_schedule(velocity):
        return "use a longer or stronger noise schedule, or sample from what it ends in: --prior matched"
    registry = default_registry()
    names = [
        name
        for name in registry.names("process")
        if name in registry.presets() and Process.model_validate(name).parts()[1].name == velocity.name
    ]
    presets = f", as in --preset {names[0]}" if names else ""
    return f"sample from what it ends in: --prior matched, or --prior data{presets}"


def has_noise_schedule(component: Component) -> bool:
    """Whether a velocity, or one that it owns, follows a noise schedule."""
    parts = [value for name in type(component).model_fields if isinstance(value := getattr(component, name), Component)]
    return any(isinstance(part, NoiseSchedule) or has_noise_schedule(part) for part in parts)


def _blur_in_noise(snr: BandSNR) -> Finding | None:
    diffusion = snr.diffusion
    loss = (diffusion.at(diffusion.N).log_a.max() - snr.mean(diffusion.at(diffusion.N).log_a)).nan_to_num(0.0) * DECIBEL
    k = int(loss.argmax())
    if not loss[k] > BLURRED:
        return None
    crossings = snr.data_below(0.0)
    isotropic = first_below(
        lambda steps: torch.stack([diffusion.at(i).half_log_snr.max() for i in steps])[:, None] * DECIBEL,
        diffusion.N,
        -snr.data,
    )
    pairs = [(own, slowest) for own, slowest in zip(crossings, isotropic, strict=True) if own and slowest]
    shift = max((slowest - own for own, slowest in pairs), default=diffusion.N)
    if shift > NEARBY * diffusion.N:
        return None
    i = crossings[k]
    before = 0.0 if i is None else float(DECIBEL * (diffusion.at(i).log_a.max() - snr.mean(diffusion.at(i).log_a)[k]))
    return Finding(
        "blur-in-noise",
        f"the blur acts only where everything is already noise: it takes {float(loss[k]):.1f} dB of the signal of "
        f"ρ < {snr.edges[k]:.2f} by N = {diffusion.N}, but {before:.2g} dB before its data-SNR falls below 1 (at step {i}), "
        f"and moves {f'no crossing by more than {shift} steps' if shift else 'no crossing at all'}: the data are destroyed as "
        "without blur",
        {"lost_db": float(loss[k]), "lost_before_crossing_db": before, "crossing": i or 0, "moved_steps": shift},
    )


def _bands(snr: BandSNR, which: list[int]) -> str:
    return f"{len(which)} of {len(snr.edges)} bands " + ("is" if len(which) == 1 else "are")
