"""Objectives: what the network predicts and how errors are weighed."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the objectives."""
    here, weighted = "gendiff_plugins.objectives.squared", "gendiff_plugins.objectives.weighted"
    return [
        Lazy("objective", "eps", f"{here}:Eps", "predict ε, weight 1 (the paper's eq. 18)"),
        Lazy("objective", "score", f"{here}:Score", "predict ε, weight 1/s²: score matching (the paper's eq. 17)"),
        Lazy("objective", "std", f"{here}:Std", "predict the noise as it stands in the picture, s ε"),
        Lazy("objective", "x0", f"{here}:X0", "predict the clean event x_0"),
        Lazy(
            "objective",
            "x0-l1",
            "gendiff_plugins.objectives.absolute:X0Absolute",
            "predict the clean event x_0, absolute error of its pixels",
        ),
        Lazy("objective", "residual", f"{here}:Residual", "predict what the step before has more, a_{i-1} x_0 - x_i"),
        Lazy("objective", "v", f"{here}:V", "predict v = a ε - s x_0"),
        Lazy("objective", "velocity", f"{here}:FlowVelocity", "predict the velocity of the path, dx_t/dt"),
        Lazy("objective", "wiener", f"{here}:Wiener", "predict T, what the best linear guess leaves open"),
        Lazy(
            "objective",
            "min-snr",
            f"{weighted}:MinSNR",
            "predict ε, with easy steps weighed down: min(SNR, γ)/SNR",
        ),
        Lazy("objective", "edm", f"{weighted}:EDMWeighted", "predict x_0, weight a²/s² + 1/σ_data²: EDM's loss"),
        Lazy("objective", "elbo", f"{weighted}:ELBO", "predict T, with the weights of the bound on the likelihood"),
    ]
