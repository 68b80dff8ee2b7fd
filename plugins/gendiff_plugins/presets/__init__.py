"""Presets: complete or partial configurations, one TOML file each."""

from pathlib import Path

from gendiff.plugin.hookspecs import hookimpl


@hookimpl
def gendiff_presets() -> dict[str, Path]:
    """Every TOML file beside this module, by its stem."""
    return {path.stem: path for path in Path(__file__).parent.glob("*.toml")}
