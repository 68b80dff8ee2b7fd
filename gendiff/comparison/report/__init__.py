"""Report: what a comparison found, as data, as one page that needs nothing but itself, and as figures for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gendiff.command import command
from gendiff.comparison.directory import Comparison
from gendiff.comparison.look import Look
from gendiff.comparison.report import figures, page
from gendiff.errors import DataError
from gendiff.plain import json_text
from gendiff.storage.files import Files

DATA = 64  # events of the data that are shown, at most


def write(comparison: Comparison, result: dict[str, Any], looks: Sequence[Look]) -> list[Path]:
    """Write compare.json, report.html and figures/ of a comparison that is finished; returns the files, these two first.

    Args:
        result: of `gendiff.comparison.result.result`.
        looks: of `gendiff.comparison.engine.Engine.looks`.

    """
    measures = [comparison.measured(cell, comparison.plan.samplers(cell.contender)[-1]) for cell in comparison.shown()]
    samples = [measure.first for measure in measures if measure is not None]
    if len(samples) < len(measures):
        raise DataError(f"'{comparison.path}' lacks measures", fix=command("compare", "--resume", comparison.path))
    reference = comparison.plan.reference
    count = min(DATA, reference.n)
    data = torch.cat([events.cpu() for events in reference.at([k * reference.n // count for k in range(count)])])
    json_path, html_path = comparison.path / "compare.json", comparison.path / "report.html"
    Files().replace(json_path, json_text(result, indent=1).encode())
    page.write(html_path, result, looks, samples, data)
    return [json_path, html_path, *figures.write(comparison.path / "figures", result, looks, samples, data)]
