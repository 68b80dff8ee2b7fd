"""Numbers with their conditions, as every command shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gendiff.errors import DataError
from gendiff.evaluation.number import Evaluation, Number, Remark
from gendiff_cli.console import counted, note, paragraph, result, table


def show_numbers(numbers: Sequence[Number], replicates: int | None = None) -> None:
    """A table, and under it what all of its numbers depend on."""
    rows = [
        (
            number.name,
            f"{number.value:.4g}",
            f"{number.low:.4g} .. {number.high:.4g}",
            number.better,
            f"{number.samples.n}",
            f"{number.reference.n or 'unknown'}",
        )
        for number in numbers
    ]
    level = f"{numbers[0].level:.0%} interval"
    table(["name", "value", level, "better", "samples", "reference"], rows)
    first = numbers[0]
    result("")
    result(f"samples    {first.samples.spec} ({first.samples.fingerprint})")
    if drawing := first.drawing:
        weights = {"ema": "averaged", "model": "raw"}.get(drawing.weights, drawing.weights)
        result(
            f"drawn by   {drawing.sampler}, {asked(drawing.evaluations)}, seed {drawing.seed}, {drawing.precision}, "
            f"from step {drawing.step}, {weights} weights {drawing.weights_hash[:12]}"
        )
        for what, words in (("under", drawing.condition), ("guided by", drawing.guides)):
            if words:
                result(f"{what:10} {words}")
    result(f"reference  {first.reference.spec} ({first.reference.fingerprint})")
    by = dict.fromkeys(
        n.instrument if "{" in n.instrument_fingerprint else n.instrument_fingerprint.partition("; ")[0]
        for n in numbers
    )
    result(f"measured   by {'; '.join(by)}")
    if replicates is not None:
        result(
            f"interval   {replicates} subsets of half of the samples; holds what other samples of this model would give"
        )
    result("compare    only with numbers of as many samples, the same reference and the same instrument")


def show_remarks(remarks: Sequence[Remark]) -> None:
    """What must be known to read the numbers, each rule and what it says."""
    if remarks:
        result("")
    for remark in remarks:
        paragraph(f"{remark.rule}: {remark.text}", indent=2)


def asked(evaluations: int | None) -> str:
    """How often a sampler asked the network, in words; None where it chose that itself."""
    return "evaluations as it chose" if evaluations is None else f"{evaluations} evaluations"


def stored_evaluations(run: Path) -> list[tuple[Path, Evaluation]]:
    """The evaluations under a run directory, the oldest first; a note names those that cannot be read."""
    evaluations = []
    for file in sorted((run / "eval").glob("*.json")):
        try:
            evaluation = Evaluation.load(file)
        except DataError as error:
            note(f"left out: {file}: {error.what}")
            continue
        if evaluation.numbers:
            evaluations.append((file, evaluation))
    return sorted(evaluations, key=lambda pair: pair[1].when)


def list_evaluations(evaluations: Sequence[tuple[Path, Evaluation]]) -> None:
    """For each its headline in a line, and below it what that depends on, how many numbers there are, and when it was made."""
    heads, bodies = list[tuple[str, ...]](), list[str]()
    for _, evaluation in evaluations:
        number, drawing = evaluation.numbers[0], evaluation.numbers[0].drawing
        weights = {"ema": "", "model": " raw"}.get(drawing.weights, f" {drawing.weights}") if drawing else ""
        value = f"{number.value:.4g} ({number.low:.4g} .. {number.high:.4g})"
        of = f"{number.samples.n} samples" + (f" of step {drawing.step:,}{weights}" if drawing else "")
        heads.append((number.name, value, of))
        by = f"drawn by {drawing.sampler}, {asked(drawing.evaluations)}, seed {drawing.seed}; " if drawing else ""
        told = "".join(f"{words}; " for words in (drawing.condition, drawing.guides) if words) if drawing else ""
        others = f"{counted(len(evaluation.numbers), 'number')}, {evaluation.when[:16].replace('T', ' ')}"
        bodies.append(f"  against {number.reference.spec}; {by}{told}{others}")
    widths = [max(len(head[k]) for head in heads) for k in range(2)]
    for (name, value, of), body in zip(heads, bodies, strict=True):
        result(f"{name:{widths[0]}}  {value:{widths[1]}}  {of}")
        paragraph(body, indent=4)
