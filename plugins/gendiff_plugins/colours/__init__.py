"""Colours: spectra of the noise."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the colours."""
    here = "gendiff_plugins.colours"
    return [
        Lazy("colour", "white", f"{here}.frequency:White", "the same power in every component: S = 1"),
        Lazy("colour", "power-law", f"{here}.frequency:PowerLaw", "power falls with frequency: S_k ∝ ρ_k^-α"),
        Lazy("colour", "pink", f"{here}.frequency:Pink", "power falls as one over frequency: S_k ∝ 1/ρ_k"),
        Lazy("colour", "blue", f"{here}.frequency:Blue", "power rises with frequency: S_k ∝ ρ_k"),
        Lazy("colour", "bands", f"{here}.frequency:Bands", "a power for each band of frequency, two or more"),
        Lazy(
            "colour",
            "pyramid",
            f"{here}.resolutions:Pyramid",
            "multi-resolution noise: white noise of every size, made larger and added",
        ),
        Lazy("colour", "offset", f"{here}.resolutions:Offset", "white noise, and one number added to a whole channel"),
        Lazy("colour", "as-data", f"{here}.data:AsData", "the spectrum of the data: S_k ∝ C_k"),
    ]
