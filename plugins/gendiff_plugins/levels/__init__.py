"""Levels: by which law noise levels are drawn in training."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the laws."""
    here = "gendiff_plugins.levels.laws"
    return [
        Lazy("levels", "uniform", f"{here}:Uniform", "every step alike: p_i = 1/N"),
        Lazy("levels", "log-normal", f"{here}:LogNormal", "log σ is normal: EDM's law"),
        Lazy("levels", "logit-normal", f"{here}:LogitNormal", "logit t is normal: Stable Diffusion 3's law"),
        Lazy("levels", "cosine", f"{here}:Cosine", "density 2/(π (1 - 2t + 2t²)): log-SNR as in the cosine schedule"),
        Lazy(
            "levels",
            "low-discrepancy",
            f"{here}:LowDiscrepancy",
            "every step alike, the events of a batch spread evenly: less variance",
        ),
        Lazy(
            "levels",
            "importance",
            "gendiff_plugins.levels.adaptive:Importance",
            "in proportion to the loss, as it goes",
        ),
    ]
