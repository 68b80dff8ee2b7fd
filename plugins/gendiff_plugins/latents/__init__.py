"""Latents: autoencoders before the rotation."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the latents."""
    where = "gendiff_plugins.latents.autoencoder_kl:AutoencoderKL"
    return [Lazy("latent", "diffusers", where, "an AutoencoderKL of diffusers, from its folder")]
