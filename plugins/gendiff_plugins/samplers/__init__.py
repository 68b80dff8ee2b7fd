"""Samplers: affine plans from the prior to the data."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the samplers."""
    here = "gendiff_plugins.samplers"
    return [
        Lazy(
            "sampler",
            "reverse-diffusion",
            f"{here}.reverse_diffusion:ReverseDiffusion",
            "the paper's sampler: the reverse SDE, one step at a time",
        ),
        Lazy(
            "sampler",
            "dopri5",
            f"{here}.dopri5:DormandPrince5",
            "follows the probability-flow ODE in steps that it chooses by their error, for each event its own",
        ),
        Lazy(
            "sampler",
            "churn",
            f"{here}.churn:Churn",
            "heun with noise put back in before each step (Karras' stochastic sampler)",
        ),
        Lazy("sampler", "ancestral", f"{here}.ddim:Ancestral", "draws from the posterior q(x_j | x_i, x̂_0)"),
        Lazy(
            "sampler",
            "heat-dissipation",
            f"{here}.heat_dissipation:HeatDissipation",
            "sharpens by the predicted residual and adds noise of its own, every step",
        ),
        Lazy(
            "sampler",
            "momentum",
            f"{here}.momentum:Momentum",
            "x̂_0 corrupted anew at the next step, with the noise that is left",
        ),
        Lazy("sampler", "ddim", f"{here}.ddim:DDIM", "deterministic at η = 0, ancestral at η = 1, any number of steps"),
        Lazy(
            "sampler",
            "dpmpp-2m",
            f"{here}.multistep:DPM2M",
            "second order and deterministic, one evaluation a step",
        ),
        Lazy(
            "sampler",
            "sde-dpmpp-2m",
            f"{here}.multistep:SDEDPM2M",
            "second order in the drift, with the noise of the reverse SDE; one evaluation a step",
        ),
        Lazy(
            "sampler",
            "unipc-2",
            f"{here}.multistep:UniPC2",
            "a second-order predictor whose evaluation corrects the step before; one evaluation a step",
        ),
        Lazy(
            "sampler", "heun", f"{here}.heun:Heun", "second order, a guess and its correction: two evaluations a step"
        ),
        Lazy(
            "sampler",
            "trig",
            f"{here}.trigonometric:Trigonometric",
            "along the angle between signal and noise: exact in one step for Gaussian data, first or second order",
        ),
    ]
