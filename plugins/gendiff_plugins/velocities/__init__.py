"""Velocities: how fast each component is corrupted."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the velocities."""
    here = "gendiff_plugins.velocities"
    return [
        Lazy("velocity", "blur", f"{here}.blur:Blur", "blur and noise: B_i = I - (1 - β_i) D^{2 f(i)}"),
        Lazy("velocity", "isotropic", f"{here}.isotropic:Isotropic", "noise alone: B_i = β_i I, DDPM in any basis"),
        Lazy(
            "velocity",
            "anisotropic",
            f"{here}.edm:Anisotropic",
            "noise alone, coarse and fine at their own pace: a = 1, s = σ_i exp(lead sin(πτ) (2 r_k - 1))",
        ),
        Lazy(
            "velocity",
            "edm",
            f"{here}.edm:EDM",
            "noise alone, the signal as it is: a = 1, s = σ_i in equal steps of σ^(1/ρ)",
        ),
        Lazy(
            "velocity",
            "fine-to-coarse",
            f"{here}.fine_to_coarse:FineToCoarse",
            "the paper's control: B_i = I - (1 - β_i) (I - D)^{2 f(i)}",
        ),
        Lazy(
            "velocity",
            "blurring",
            f"{here}.blurring:Blurring",
            "heat and noise, the same noise for all: a = a(t) d_k(t), s = σ(t)",
        ),
        Lazy("velocity", "heat", f"{here}.heat:Heat", "heat and a trace of noise: a = exp(-μ_k σ_B²/2), s constant"),
        Lazy("velocity", "cold", f"{here}.cold:Cold", "blur alone, the limit s = 0: a = exp(-μ_k Σσ_j²/2), s = floor"),
        Lazy(
            "velocity",
            "spectrum-matched",
            f"{here}.spectrum_matched:SpectrumMatched",
            "the straightest way from the data's spectrum to white: a² = (1-S^τ)/(1-S), τ = 1 - i/N",
        ),
        Lazy(
            "velocity",
            "equal-snr",
            f"{here}.equal_snr:EqualSNR",
            "noise with the data's spectrum: a = sqrt(ᾱ), s = sqrt((1-ᾱ) C_k)",
        ),
        Lazy(
            "velocity",
            "soft-conditioning",
            f"{here}.soft_conditioning:SoftConditioning",
            "from joint to autoregressive: log(s²/a²) rises linearly in time, faint components first",
        ),
        Lazy(
            "velocity",
            "rectified-flow",
            f"{here}.flow:RectifiedFlow",
            "a straight path from data to noise: a = 1 - t, s = t",
        ),
        Lazy(
            "velocity",
            "k-flow",
            f"{here}.flow:KFlow",
            "band by band, each a straight path in its own window of time: a = 1 - τ_k(t), s = τ_k(t)",
        ),
        Lazy(
            "velocity",
            "low-pass-flow",
            f"{here}.flow:LowPassFlow",
            "a straight path through a low pass that closes: a = (1 - t) exp(-μ_k (σ t)²/2), s = t",
        ),
        Lazy(
            "velocity",
            "interpolant",
            f"{here}.interpolant:Interpolant",
            "a path of your own, per component: a and s as formulas of time and frequency",
        ),
        Lazy(
            "velocity",
            "learned",
            f"{here}.learned:Learned",
            "a clock for each band of frequencies, learned with the network: a² = ᾱ(N τ_b(t))",
        ),
        Lazy(
            "velocity",
            "coloured",
            f"{here}.coloured:Coloured",
            "another velocity with noise of a colour: s_k sqrt(S_k) in the place of s_k",
        ),
        Lazy(
            "velocity",
            "reversed",
            f"{here}.reversed:Reversed",
            "another velocity from fine to coarse: rank p of frequency takes the scales of rank K-1-p",
        ),
    ]
