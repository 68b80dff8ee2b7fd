"""Processes: a rotation and a velocity under one name."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the named processes."""
    here = "gendiff_plugins.processes"
    return [
        Lazy("process", "ddpm", f"{here}.paper:DDPM", "standard diffusion: no rotation, one speed"),
        Lazy(
            "process",
            "blur-diffusion",
            f"{here}.paper:BlurDiffusion",
            "blur and noise in the DCT basis, fine detail first",
        ),
        Lazy(
            "process",
            "blurring-diffusion",
            f"{here}.dissipation:BlurringDiffusion",
            "heat and noise in the DCT basis, the same noise for all frequencies",
        ),
        Lazy(
            "process",
            "heat-dissipation",
            f"{here}.dissipation:HeatDissipation",
            "heat and a trace of noise in the DCT basis; sharpened step by step",
        ),
        Lazy(
            "process",
            "cold",
            f"{here}.dissipation:Cold",
            "blur without noise in the DCT basis; sharpened by a deterministic update",
        ),
        Lazy(
            "process",
            "spectrum-matched",
            f"{here}.spectral:SpectrumMatched",
            "the shortest path from the data's spectrum to white noise, in the real Fourier basis",
        ),
        Lazy(
            "process",
            "equal-snr",
            f"{here}.spectral:EqualSNR",
            "noise with the spectrum of the data, in the real Fourier basis: all frequencies drown together",
        ),
        Lazy(
            "process",
            "flipped-snr",
            f"{here}.spectral:FlippedSNR",
            "noise that drowns coarse frequencies first, in the real Fourier basis: the twin of standard diffusion",
        ),
        Lazy(
            "process",
            "soft-conditioning",
            f"{here}.spectral:SoftConditioning",
            "between joint and autoregressive: frequencies drown one after the other, with a softness",
        ),
        Lazy(
            "process",
            "learned-speeds",
            f"{here}.spectral:LearnedSpeeds",
            "frequencies at speeds that are learned with the network, in the DCT basis: they begin as standard diffusion",
        ),
        Lazy(
            "process",
            "rectified-flow",
            f"{here}.flow:RectifiedFlow",
            "a straight path from data to noise, for all components alike",
        ),
        Lazy(
            "process",
            "k-flow",
            f"{here}.flow:KFlow",
            "straight paths in the DCT basis, band by band: what is coarse is made first",
        ),
        Lazy(
            "process",
            "low-pass-flow",
            f"{here}.flow:LowPassFlow",
            "a straight path through a low pass in the DCT basis",
        ),
        Lazy(
            "process",
            "power-law",
            f"{here}.coloured:PowerLaw",
            "noise whose power falls with frequency, in the real Fourier basis: coarse detail drowns first",
        ),
        Lazy(
            "process",
            "two-bands",
            f"{here}.coloured:TwoBands",
            "noise of two powers, one for coarse and one for fine detail, in the real Fourier basis",
        ),
        Lazy("process", "pink", f"{here}.coloured:Pink", "pink noise, in the real Fourier basis"),
        Lazy(
            "process",
            "blue",
            f"{here}.coloured:Blue",
            "stationary blue noise, in the real Fourier basis: fine detail drowns first",
        ),
        Lazy(
            "process",
            "pyramid",
            f"{here}.coloured:Pyramid",
            "multi-resolution noise, in the real Fourier basis: its stationary approximation",
        ),
        Lazy(
            "process",
            "space-time",
            f"{here}.coloured:SpaceTime",
            "blur and noise of a video, space and time at their own speeds, in the DCT basis",
        ),
        Lazy(
            "process",
            "reversed",
            f"{here}.reversed:Reversed",
            "another process from fine to coarse: all its speeds, dealt out the other way round",
        ),
    ]
