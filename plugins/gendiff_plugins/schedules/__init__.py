"""Blur schedules f(i)."""

from gendiff.plugin.hookspecs import Lazy, hookimpl


@hookimpl
def gendiff_components() -> list[Lazy]:
    """Announce the blur schedules."""
    here = "gendiff_plugins.schedules.paper"
    return [
        Lazy("schedule", "none", f"{here}:NoBlur", "f(i) = 0: no blur at all"),
        Lazy("schedule", "linear", f"{here}:Linear", "f(i) = f_min + (f_max - f_min) (i-1)/(N-1)"),
        Lazy("schedule", "log", f"{here}:Log", "f(i) = f_min + (f_max - f_min) ln i / ln N"),
        Lazy("schedule", "quadratic", f"{here}:Quadratic", "f(i) = f_min + (f_max - f_min) (i²-1)/(N²-1)"),
        Lazy("schedule", "cubic", f"{here}:Cubic", "f(i) = f_min + (f_max - f_min) (i/N)³"),
        Lazy("schedule", "quartic", f"{here}:Quartic", "f(i) = f_min + (f_max - f_min) (i/N)⁴"),
        Lazy("schedule", "triangular", f"{here}:Triangular", "f(i) = lin(i) up to N/2, then lin(N-i)"),
    ]
