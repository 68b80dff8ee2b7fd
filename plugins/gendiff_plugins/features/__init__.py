"""Features: the coordinates in which samples are compared with data."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the features."""
    here = "gendiff_plugins.features"
    return [
        Lazy(
            "features",
            "inception",
            f"{here}.inception:Inception",
            "what the Inception network of FID sees, 2048 numbers",
        ),
        Lazy("features", "dinov2", f"{here}.dinov2:Dinov2", "what DINOv2 sees, the CLS token of a vision transformer"),
        Lazy("features", "pixels", f"{here}.pixels:Pixels", "the values themselves"),
        Lazy("features", "dct", f"{here}.dct:DCT", "DCT coefficients, or the logarithm of their size"),
        Lazy("features", "random-conv", f"{here}.random_conv:RandomConv", "what a random convolutional network sees"),
        Lazy(
            "features",
            "bands",
            f"{here}.bands:Bands",
            "energy of fine detail in every part of a picture: sees grain",
        ),
    ]
