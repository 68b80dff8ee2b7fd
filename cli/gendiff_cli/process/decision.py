"""The last line of what a process is shown and predicted to do: what it decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gendiff.errors import GendiffError
from gendiff_cli.process.subject import Subject

if TYPE_CHECKING:
    from gendiff.lab.decision import Decision, Floor

DRAWN = 1000  # samples that it is asked of: as many as gendiff compare draws
VALUES = 2**24  # of the events that are held against each other, at most
STANDARD = "standard diffusion"
EACH = "the sampler of each"


def floor(subject: Subject) -> Floor | None:
    """What real events of a process differ by, in pixels; None where the data are not here, or too few.

    It is kept in the user's cache, under the fingerprint of the data.
    """
    import torch

    from gendiff.evaluation.remarks import FEWEST, Real
    from gendiff.lab.decision import Floor
    from gendiff.moments import MOST_ENDLESS
    from gendiff.storage.cache import Cache

    data = subject.data
    if data is None:
        return None
    most = min(2 * DRAWN if data.length is not None else 2 * MOST_ENDLESS, VALUES // subject.components)
    places = data.spread(max(most, FEWEST))
    if len(places) < FEWEST:
        return None
    n, m = min(DRAWN, len(places)), len(places)
    cache, key = Cache.of_user(), f"real pixels/1 {n} {m} {data.fingerprint}"
    if (kept := cache.read(key)) is not None:
        return Floor(float(kept["distance"]), n, m)
    rows = torch.stack([data[index] for index in places]).flatten(1)
    distance = Real.of(rows, n).distance
    cache.write(key, {"distance": torch.tensor(distance, dtype=torch.float64)})
    return Floor(distance, n, m)


def standard(subject: Subject) -> Subject | None:
    """Standard diffusion with the noise schedule of a process, to hold it against; None where it is that itself."""
    from gendiff.component import component_class
    from gendiff.run.layers import Layer, resolve

    if subject.diffusion.alike:
        return None
    noise = getattr(subject.config.velocity, "noise", None)
    velocity: dict[str, Any] = {"name": "isotropic"}
    if noise is not None and "noise" in component_class("velocity", "isotropic").model_fields:
        velocity["noise"] = noise.table()
    table = {key: value for key, value in subject.config.table().items() if key not in ("rotation", "velocity")}
    if subject.data is not None:
        table["data"] = subject.data.table()
    plain = {"rotation": "identity", "velocity": velocity}
    try:
        return Subject(STANDARD, resolve([Layer("the process", table), Layer(STANDARD, plain)]), subject.data)
    except GendiffError:  # of a run whose plugins are gone
        return None


def decision(
    rows: Sequence[dict[str, Any]], processes: Sequence[Subject], sampler: str, asked: int | None, real: Floor | None
) -> Decision | None:
    """What predictions decide with one sampler; None where there is nothing to hold against each other.

    Args:
        rows: as of ``gendiff process predict --json``, of the processes, and of standard diffusion where there is one of them.
        sampler: the one that is used; where not all processes have it, the first that all have.
        asked: the number of evaluations that samples would be drawn with; None, or one that is not there: the largest.

    """
    from gendiff.lab.decision import decide

    labels, names = {row["process"] for row in rows}, dict[str, list[dict[str, Any]]]()
    for row in rows:
        names.setdefault(_without_prior(row["sampler"]), []).append(row)
    common = [name for name, of in names.items() if {row["process"] for row in of} == labels]
    if not common:
        return None
    own = _without_prior(sampler)
    name = own if own in common else common[0]
    of = names[name]
    errors: dict[str, dict[int, float]] = {}
    for row in of:
        errors.setdefault(row["process"], {})[row["asked"]] = row["off"]["error"] if "off" in row else row["error"]
    counts = set.intersection(*(set(values) for values in errors.values()))
    if not counts or not all(math.isfinite(error) for values in errors.values() for error in values.values()):
        return None
    at = asked if asked in counts else max(counts)
    choice = decide(errors, at, real, name, of[0]["data"], all(row["exact"] for row in of))
    if flattered := [subject.label for subject in processes if _is_flattered(subject)]:
        why = f"{', '.join(flattered)}: with objective eps, where a vanishes, the prediction is too good"
        choice = replace(choice, text=f"{choice.text}; {why}")
    return choice


def _without_prior(spec: str) -> str:
    """The spec of a sampler wherever its chains start, which belongs to a process; another text as it is."""
    from gendiff.sampler import Sampler

    if spec == EACH:
        return spec
    table = Sampler.model_validate(spec).table()
    return Sampler.model_validate({key: value for key, value in table.items() if key != "prior"}).spec


def _is_flattered(subject: Subject) -> bool:
    """Whether a network that predicts ε is asked where nothing of x_0 is left in what it sees, in some component."""
    from gendiff.score import LOG_A_PRIOR, Parametrization

    end = subject.diffusion.at(subject.diffusion.N).log_a
    return subject.config.objective.parametrization is Parametrization.EPS and bool(end.min() < LOG_A_PRIOR)
