"""``gendiff restore``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff.machine.load import Load
from gendiff_cli.console import json_result, next_step, note, progress, result, table
from gendiff_cli.crew import ThreadsOption, threads_for_drawing
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    CheckpointArgument,
    CompileOption,
    DeviceOption,
    EmaOption,
    Given,
    JsonOption,
    PrecisionOption,
    RawOption,
    StepsOption,
    chosen_weights,
    configured,
    saying,
    spec_option,
)
from gendiff_cli.sample import check_folder, chosen_sampler, folder_name

if TYPE_CHECKING:
    from torch import Tensor

    from gendiff.operator import Measurement, Operator
    from gendiff.run.asked import Asked
    from gendiff.run.origin import Origin
    from gendiff.run.trained import TrainedModel
    from gendiff.sampler import Sampler

SHEET, NUMBERS, CLEAN, MEASURED = "sheet.png", "restoration.json", "clean", "measured"
ROUNDING = 2 / 255 / 12**0.5  # in [-1, 1]: the standard deviation of a value that was rounded to one of 256
BANDS = 8  # of the spectrum of an error


@configured("operator noise method n simulate condition guide sampler steps grid prior")
def restore(
    run: CheckpointArgument,
    given: Given,
    picture: Annotated[
        list[Path],
        typer.Argument(help="What was measured, a file each; with --simulate clean pictures.", metavar="PICTURE..."),
    ],
    operator: Annotated[
        str, spec_option("operator", "What was done to them: blur:sigma=2, mask:path=mask.png, downsample, grey, ...")
    ],
    method: Annotated[str, spec_option("guide", "How they are restored: pigdm, ddrm, dps, replacement.")] = "pigdm",
    noise: Annotated[
        float, typer.Option(min=0, help="Standard deviation σ of the noise in them; values are in [-1, 1].")
    ] = 0.0,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many draws of each.")] = 1,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Measure clean pictures first, and say how near they are restored.")
    ] = False,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="What the network is told, such as label=3; may be given again.", metavar="NAME=VALUE"),
    ] = None,
    guide: Annotated[
        list[str] | None, spec_option("guide", "Another guide, put on before the method; may be given again.")
    ] = None,
    steps: StepsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Each draw of each picture is the same for the same seed.")] = 0,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    precision: PrecisionOption = None,
    compiled: CompileOption = False,
    batch: Annotated[int, typer.Option(min=1, help="At a time; changes speed and memory, not pictures.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Directory; default: under RUN/samples/.")] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Restore pictures from what was measured of them, with any run: deblurring, inpainting, super-resolution.

    y = A x + σ n, with A the operator; nothing is trained for it. Pictures are taken as they are, without resizing.
    """
    from gendiff.datasets.drawn import DrawnFiles
    from gendiff.datasets.given import events_of
    from gendiff.datasets.pictures import file_size
    from gendiff.guide import Guide, check_restores
    from gendiff.machine.world import join
    from gendiff.operator import Measurement, Operator, simulated
    from gendiff.run.asked import Asked, read
    from gendiff.storage.disk import check_room
    from gendiff.storage.folder import inside
    from gendiff.storage.staging import whole

    load, opened_run = Load(), open_run(run)
    sampler = chosen_sampler(opened_run, given, steps)
    shape = opened_run.config.data.event_shape
    with saying("--operator", "operator"):
        A = Operator(operator)
        measured = A.measured(shape)
    with saying("--method", "guide"):
        way = Guide(method)
        check_restores(way)
    with saying("--guide", "guide"):
        guides = [*map(Guide, guide or []), way]
    data = opened_run.config.data
    if data.latent is not None and not simulate:
        raise ConfigError(
            f"the events of '{run}' are latents, and what was measured of pictures is not measured of these",
            fix="--simulate measures the latents of clean pictures",
        )
    clean = data.events(events_of(picture, data.picture_shape, f"an event of '{run}'")) if simulate else None
    y = (
        events_of(picture, measured, f"what operator '{A.name}' gives of an event")
        if clean is None
        else simulated(A, clean, noise, seed)
    )
    sigma = noise if simulate else at_least_rounding(noise, picture)
    with join(device) as world:
        threads_for_drawing(threads, load, world)
        model = load_model(run, opened_run, world.device, chosen_weights(ema, no_ema), precision, compiled)
        measurement = Measurement.checked(A, y, sigma, shape)
        asked = Asked.of(opened_run.config, read(condition or []), guides, measurement)
        with saying("--method", "guide"):
            evaluations = _evaluations(model, sampler, asked)
        if not world.main:
            return
        options = [*map(str, picture), "--operator", operator, "--method", method, "--noise", f"{noise:g}"]
        options += [word for one in condition or () for word in ("--condition", one)]
        options += [word for one in guide or () for word in ("--guide", one)] + ["--simulate"] * simulate
        made_by = _origin(model, sampler, seed, n, options, A, measurement, way.spec, picture, asked, evaluations)
        name = f"restored-{hashlib.sha256(made_by.text.encode()).hexdigest()[:8]}"
        folder = (
            out
            or opened_run.samples / f"{folder_name(model, sampler, seed, n * len(picture), Asked())}-{A.name}-{name}"
        )
        check_folder(folder, out is not None, {SHEET, NUMBERS, CLEAN, MEASURED})
        size = 3 * n * len(picture) * file_size(data.picture_shape)
        check_room(folder, size, f"{n * len(picture):,} pictures", "make room, or choose another directory: --out DIR")
        if out is None:
            inside(opened_run.path, folder)
        with whole(folder, out is not None, size) as stage:
            drawn = DrawnFiles(stage)
            events = _restored(model, sampler, seed, n, batch, asked, evaluations)
            if (
                data.latent is not None
            ):  # seen and measured are pictures, and what was measured where it is as large as they
                events = model.pictures(events.flatten(0, 1)).unflatten(0, events.shape[:2])
                clean = None if clean is None else model.pictures(clean)
                y = model.pictures(y) if measured == shape else y
            for k, event in enumerate(events.flatten(0, 1)):
                facts = {key: value for key, value in made_by.facts.items() if key != "n"}
                facts |= {"image": k, "picture": picture[k // n].name, "draw": k % n}
                drawn.put(k, event, type(made_by)(facts).text)
            drawn.close()
            numbers = _numbers(events, y, clean, (-1.0, 1.0) if data.latent else data.value_range)
            _write(stage, events, y, clean, numbers, made_by)
    facts = {
        "run": str(opened_run.path),
        "pictures": [str(path) for path in picture],
        "operator": A.spec,
        "noise": sigma,
        "method": way.spec,
        "n": n,
        "seed": seed,
        "sampler": sampler.spec,
        "evaluations": evaluations,
        "weights": model.weights,
        "weights_hash": model.weights_hash,
        "step": model.step,
        "folder": str(folder),
        "sheet": str(folder / SHEET),
        "events": str(folder / "events"),
        **numbers,
    }
    if json:
        json_result(facts)
        return
    if clean is not None:
        _show(numbers, picture)
    result(str(folder))
    result(str(folder / SHEET))
    again = ["--simulate"] * simulate + ["--method", "ddrm" if way.name == "pigdm" else "pigdm"]
    next_step(command("restore", run, *picture, "--operator", operator, "--noise", f"{noise:g}", *again))


def at_least_rounding(noise: float, files: Sequence[Path]) -> float:
    """σ, or where that is less, the standard deviation of what was rounded away in pictures of 8 bits."""
    if noise >= ROUNDING or all(path.suffix == ".npy" for path in files):
        return noise
    note(f"pictures of 8 bits are rounded: --noise {ROUNDING:.4f} is reckoned with")
    return ROUNDING


def _evaluations(model: TrainedModel, sampler: Sampler, asked: Asked) -> int:
    """How often the network is asked about one picture; what cannot be restored is refused before anything is drawn."""
    from gendiff.guide import course
    from gendiff.run.others import scene_of

    scene = scene_of(model.run, model.denoiser, asked, model.diffusion)
    way = course(model.score, sampler, asked.guides, scene)
    return len(way.sampler.plan(way.diffusion))


def _origin(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    n: int,
    options: Sequence[str],
    operator: Operator,
    measurement: Measurement,
    method: str,
    pictures: Sequence[Path],
    asked: Asked,
    evaluations: int,
) -> Origin:
    """What made the pictures: as of samples, and what was measured and how it is restored."""
    from gendiff.run.asked import Asked
    from gendiff.run.origin import Origin

    facts = dict(model.origin(sampler, seed, n, *options, asked=Asked(), by="restore").facts)
    facts["restoration"] = {
        "operator": operator.spec,
        "sigma": measurement.sigma,
        "method": method,
        "guides": [guide.spec for guide in asked.guides],
        "evaluations": evaluations,
        "pictures": [path.name for path in pictures],
        "measured": hashlib.sha256(measurement.y.contiguous().numpy().tobytes()).hexdigest()[:12],
    }
    return Origin(facts)


def _restored(
    model: TrainedModel, sampler: Sampler, seed: int, n: int, batch: int, asked: Asked, evaluations: int
) -> Tensor:
    """The draws of each picture, ``(P, n, *event)``."""
    import torch

    from gendiff.run.generation import generate

    count = n * asked.events
    with progress() as bar:
        task = bar.add_task("restoring", total=evaluations * count)

        def watch(snapshot: Any) -> None:
            if snapshot.pivot is not None:
                bar.advance(task, len(snapshot.x_bar))

        drawn = generate(model.denoiser, model.run, sampler, seed, range(count), batch, watch, asked=asked)
        events = torch.cat([part.cpu() for part in drawn])
    draws: Tensor = events.unflatten(0, (n, asked.events)).transpose(0, 1)
    return draws


def _numbers(
    events: Tensor, y: Tensor, clean: Tensor | None, value_range: tuple[float, float] | None
) -> dict[str, Any]:
    """How near the draws are to clean pictures: of each picture, over its draws, and of their mean."""
    from gendiff.evaluation.likeness import error_spectrum, psnr, spectrum, ssim

    if clean is None:
        return {}
    low, high = value_range or (float(clean.min()), float(clean.max()))
    peak = max(high - low, 1e-12)
    inside = events.clamp(low, high) if value_range else events
    P, n = events.shape[:2]
    again = clean[:, None].expand_as(events)
    structured = clean.ndim == 4 and min(clean.shape[2:]) >= 3
    of_draws = psnr(inside.flatten(0, 1), again.flatten(0, 1), peak).unflatten(0, (P, n))
    of_means = psnr(inside.mean(1), clean, peak)
    likeness = ssim(inside.flatten(0, 1), again.flatten(0, 1), peak).unflatten(0, (P, n)) if structured else None
    of_y = psnr(y, clean, peak) if y.shape == clean.shape else None
    rows = [
        {
            "psnr": float(of_draws[p].mean()),
            "psnr_of_mean": float(of_means[p]),
            "ssim": None if likeness is None else float(likeness[p].mean()),
            "psnr_measured": None if of_y is None else float(of_y[p]),
        }
        for p in range(P)
    ]
    return {
        "numbers": rows,
        "spectrum": {
            "error": error_spectrum(inside.flatten(0, 1), again.flatten(0, 1), BANDS).tolist(),
            "clean": spectrum(clean, BANDS).tolist(),
        },
    }


def _write(
    folder: Path, events: Tensor, y: Tensor, clean: Tensor | None, numbers: Mapping[str, Any], made_by: Origin
) -> None:
    """What stands beside the pictures: what was measured, the sheet, the numbers, and what made them."""
    import torch

    from gendiff.datasets import pictures
    from gendiff.plain import json_text
    from gendiff.storage.files import put

    for name, batch in ((MEASURED, y), (CLEAN, clean)):
        if batch is not None and batch.ndim >= 3:
            (folder / name).mkdir()
            for k, event in enumerate(batch):
                pictures.save_event(folder / name, k, event)
    columns = [*events.transpose(0, 1)]
    if (seen := _as_events(y, tuple(events.shape[2:]))) is not None:
        columns.insert(0, seen)
    if clean is not None:
        columns.append(clean)
    rows = torch.stack(columns, 1).flatten(0, 1)
    pictures.save(folder / SHEET, pictures.sheet(rows, len(columns)), made_by.text)
    put(folder / NUMBERS, json_text({**made_by.facts["restoration"], **numbers}, indent=1).encode())
    made_by.save(folder)


def _as_events(y: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """What was measured as large as events, and in as many channels, to stand beside them; None where it is no such thing."""
    from torch.nn.functional import interpolate

    if y.ndim != len(shape) + 1 or y.shape[1] not in (1, shape[0]):
        return None
    return interpolate(y, shape[1:], mode="nearest").expand(-1, *shape)


def _show(numbers: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    rows = list(numbers["numbers"])
    keys = [key for key in ("psnr_measured", "psnr", "psnr_of_mean", "ssim") if rows[0][key] is not None]
    titles = {
        "psnr_measured": "PSNR measured",
        "psnr": "PSNR restored",
        "psnr_of_mean": "PSNR of the mean",
        "ssim": "SSIM restored",
    }
    lines = [
        [path.name, *(f"{row[key]:.3f}" if key == "ssim" else f"{row[key]:.2f} dB" for key in keys)]
        for path, row in zip(pictures, rows, strict=True)
    ]
    if len(rows) > 1:
        means = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
        lines.append(["mean", *(f"{means[key]:.3f}" if key == "ssim" else f"{means[key]:.2f} dB" for key in keys)])
    table(["picture", *(titles[key] for key in keys)], lines)
    result("")
    error, clean = numbers["spectrum"]["error"], numbers["spectrum"]["clean"]
    cells = [f"{e / c:.1%}" if c > 0 else "-" for e, c in zip(error, clean, strict=True)]
    result(f"error of each band of frequency, in parts of the picture's, coarse to fine: {' '.join(cells)}")
    result("")
