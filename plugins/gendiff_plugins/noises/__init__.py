"""Noise schedules β_i."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the noise schedules."""
    here = "gendiff_plugins.noises"
    return [
        Lazy("noise", "linear", f"{here}.linear:Linear", "β_i rises linearly from beta_min to beta_max"),
        Lazy(
            "noise",
            "scaled-linear",
            f"{here}.linear:ScaledLinear",
            "the root of β_i rises linearly from that of beta_min to that of beta_max",
        ),
        Lazy("noise", "cosine", f"{here}.curves:Cosine", "ᾱ_i follows cos²((i/N + 0.008)/1.008 π/2)"),
        Lazy("noise", "exp", f"{here}.curves:Exp", "ᾱ_i follows 1 - h(i)/h(N), h(i) = exp(5i/N - 5) + 1e-4"),
        Lazy("noise", "sigmoid", f"{here}.curves:Sigmoid", "ᾱ_i follows a sigmoid from start to end"),
    ]
