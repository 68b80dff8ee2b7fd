"""Guides: what steers a sample."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the guides."""
    here = "gendiff_plugins.guides"
    return [
        Lazy("guide", "cfg", f"{here}.classifier_free:ClassifierFree", "classifier-free guidance"),
        Lazy(
            "guide",
            "autoguidance",
            f"{here}.autoguidance:Autoguidance",
            "away from what a weaker network of the same kind believes",
        ),
        Lazy(
            "guide",
            "frequency",
            f"{here}.frequency:Frequency",
            "classifier-free guidance with a weight for each band of frequencies",
        ),
        *_restoring(here),
    ]


def _restoring(here: str) -> list[Lazy]:
    return [
        Lazy("guide", "pigdm", f"{here}.restoration_gradient:PiGDM", "pseudoinverse guidance, exact for Gaussian data"),
        Lazy(
            "guide",
            "dps",
            f"{here}.restoration_gradient:DPS",
            "diffusion posterior sampling: a step of gradient descent on ``|y - A x̂_0|`` at every step",
        ),
        Lazy(
            "guide",
            "ddrm",
            f"{here}.restoration_spectral:DDRM",
            "denoising diffusion restoration, in the singular vectors of A",
        ),
        Lazy(
            "guide",
            "replacement",
            f"{here}.restoration_replacement:Replacement",
            "what was measured is put in its place at every step, and the rest is drawn to it, again and again",
        ),
    ]
