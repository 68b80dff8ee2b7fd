"""Operators: what a measurement sees of an event."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the operators."""
    here = "gendiff_plugins.operators"
    return [
        Lazy("operator", "identity", f"{here}.pixels:Identity", "all of the event: denoising"),
        Lazy("operator", "mask", f"{here}.pixels:Mask", "some of the pixels: inpainting"),
        Lazy("operator", "blur", f"{here}.frequencies:Blur", "a Gaussian blur: deblurring"),
        Lazy(
            "operator", "crop-frequencies", f"{here}.frequencies:CropFrequencies", "the lowest frequencies: sharpening"
        ),
        Lazy("operator", "downsample", f"{here}.blocks:Downsample", "means of blocks of pixels: super-resolution"),
        Lazy("operator", "grey", f"{here}.channels:Grey", "the brightness of a colour picture: colouring"),
    ]
