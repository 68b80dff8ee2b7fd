"""Models: networks that read a corrupted event and its step."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the models."""
    here = "gendiff_plugins.models"
    diffusers = "a network of diffusers with its weights: UNet2DModel, DiTTransformer2DModel"
    module = "a network that a function in a Python file makes: 'module:path=net.py:make_network'"
    return [
        Lazy("model", "unet", f"{here}.unet:UNet", "ADM-style U-Net for pictures, signals and volumes"),
        Lazy("model", "dit", f"{here}.transformer:DiT", "diffusion transformer with adaptive layer norm"),
        Lazy(
            "model",
            "uvit",
            f"{here}.transformer:UViT",
            "transformer with long skips, in which the step is a token",
        ),
        Lazy("model", "edm", f"{here}.edm:EDMModel", "a network of EDM, from NVIDIA's pickle, of which nothing is run"),
        Lazy(
            "model",
            "adm",
            f"{here}.adm:ADM",
            "a network of guided-diffusion or improved-diffusion, from its state dict",
        ),
        Lazy("model", "diffusers", f"{here}.of_diffusers:Diffusers", diffusers),
        Lazy("model", "module", "gendiff.run.module:ModuleFile", module),
        Lazy("model", "mlp", f"{here}.mlp:MLP", "residual perceptron over the flattened event, for toy data"),
    ]
