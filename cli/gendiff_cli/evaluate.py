"""``gendiff evaluate``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command, quoted
from gendiff.errors import ConfigError, DataError
from gendiff.storage import disk
from gendiff_cli.classes import by_class, label_of
from gendiff_cli.console import json_result, next_step, note, paragraph, progress, result
from gendiff_cli.crew import AtOnceOption, ThreadsOption, crew_of
from gendiff_cli.measured import MOST, SOURCE, chosen_instruments, event_set, reference_set
from gendiff_cli.neighbours import MOST_SHOWN, Search, picture_of, save_picture
from gendiff_cli.numbers import show_numbers, show_remarks
from gendiff_cli.opening import is_run, load_model, open_run
from gendiff_cli.options import (
    CompileOption,
    ConditionOption,
    DeviceOption,
    EmaOption,
    Given,
    GuideOption,
    HeldOutOption,
    JsonOption,
    PrecisionOption,
    RawOption,
    StepsOption,
    WeightsOption,
    chosen_weights,
    configured,
    spec_option,
)
from gendiff_cli.sample import asked_of, chosen_sampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gendiff.evaluation.event_set import KnownStatistics, Seen
    from gendiff.evaluation.number import Evaluation
    from gendiff.evaluation.statistics import Statistics
    from gendiff.features import Features
    from gendiff.metric import Metric
    from gendiff.run.directory import Run
    from gendiff.sampler import Snapshot

LONG = 1_000_000  # evaluations of a network, beyond which fewer steps are suggested


@configured(
    "data held_out reference n reference_n features metric kid precision_recall neighbours by condition guide "
    "sampler steps grid prior seed ema no_ema batch device threads at_once"
)
def evaluate(
    context: typer.Context,
    given: Given,
    source: Annotated[
        str,
        typer.Argument(help="A run directory, a folder or archive of samples, or a SPEC of data.", metavar="SOURCE"),
    ],
    data: Annotated[
        str | None, spec_option("data", "Data to compare with, or a path; default: those of the run.")
    ] = None,
    held_out: HeldOutOption = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Pictures to compare with, or statistics as pytorch-fid has them.", metavar="FOLDER|FILE"),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", min=8, help="Samples; default: as many as the reference has, at most 10000."),
    ] = None,
    reference_n: Annotated[
        int | None, typer.Option(min=8, help="Events of the reference, spread over it; default: all, at most 50000.")
    ] = None,
    features: Annotated[
        list[str] | None,
        spec_option(
            "features",
            "inception, random-conv, bands, pixels, dct; may be given again. "
            "Default: inception, for pictures of 32 pixels or more, and else random-conv.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, spec_option("metric", "moments, spectrum; may be given again. Default: both.")
    ] = None,
    kid: Annotated[bool, typer.Option("--kid/--no-kid", help="Kernel distance.")] = True,
    precision_recall: Annotated[
        bool, typer.Option("--precision-recall/--no-precision-recall", help="Precision and recall.")
    ] = True,
    neighbours: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_SHOWN,
            help="Count the samples that are nearer to training events than others are, and draw the K nearest of "
            "them beside these: in pixels and in the features.",
            metavar="[K=16]",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Measure each class of a label by itself too: label.", metavar="NAME"),
    ] = None,
    condition: ConditionOption = None,
    guide: GuideOption = None,
    steps: StepsOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Sample k is the same for the same seed, whatever else is asked.")
    ] = 0,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    precision: PrecisionOption = None,
    compiled: CompileOption = False,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time; changes speed and memory, not numbers.")] = 64,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    at_once: AtOnceOption = None,
    replicates: Annotated[int, typer.Option(min=2, help="Subsets behind each interval.")] = 20,
    fid_weights: WeightsOption = None,
    save_statistics: Annotated[
        Path | None, typer.Option(help="Write mean and covariance of the samples' features (.npz).", metavar="FILE")
    ] = None,
    use_cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep features of the reference for the next time.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="File of the numbers; default: under RUN/eval/.", metavar="FILE")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure how far samples are from data: FID and its relatives, spectrum, brightness and contrast."""
    from gendiff.evaluation import measuring
    from gendiff.evaluation.classes import alike, with_classes
    from gendiff.evaluation.event_set import EventSet
    from gendiff.machine.jobs import ALONE
    from gendiff.machine.world import join
    from gendiff.storage.cache import Cache
    from gendiff.storage.folder import inside

    _check_file(save_statistics, "--save-statistics", ".npz")
    _check_file(out, "--out", ".json")
    with join(device) as world, _Progress() as progress:
        which = chosen_weights(ema, no_ema)
        model = (
            load_model(source, open_run(Path(source)), world.device, which, precision, compiled)
            if is_run(source)
            else None
        )
        if model is None:
            own = {"by": by, "steps": steps, "precision": precision and precision.value}
            own |= {"condition": " ".join(condition or ()) or None, "guide": " ".join(guide or ()) or None}
            drawing_options = {**given.values, **{key: value for key, value in own.items() if value is not None}}
            _refuse_drawing(source, drawing_options, which)
        samples = None if model else event_set(context.obj, source, SOURCE, n)
        if model and not out:
            inside(model.run.path, model.run.evaluations)  # before hours of drawing
        shape = samples.event_shape if samples else model.config.data.picture_shape if model else ()
        theirs = reference_set(context.obj, data, reference, reference_n, model.run if model else None, shape, held_out)
        if theirs is None and save_statistics is None:
            raise ConfigError(
                f"what is '{source}' to be compared with?",
                fix="give --data SPEC, or --reference with a folder of pictures or a file of statistics",
            )
        asked, label = asked_of(model.run, condition, guide) if model else None, None
        if model and asked:
            model.check(asked)
            label = None if by is None else label_of(model.config.conditions, by)
            if condition and data is None and reference is None and isinstance(theirs, EventSet):
                theirs = alike(theirs, model.config.conditions, asked)
        instruments = chosen_instruments(features, metric, fid_weights, shape, theirs)
        search = None if neighbours is None else Search.of(neighbours, model, theirs, instruments, source, out)
        measured_by = search.instruments if search else instruments
        drawing = None
        if model:
            count = n or max(min((theirs and theirs.about.n) or MOST, MOST), measuring.FEWEST)
            sampler = chosen_sampler(model.run, given, steps)
            samples, drawing = measuring.drawn(model, sampler, count, seed, batch, world, progress.snapshot, asked)
            progress.chain = drawing.evaluations or 1
            if count * progress.chain > LONG and world.device.type == "cpu":
                note(f"{count} samples of {drawing.evaluations} evaluations each; fewer of either: --n, --steps")
        assert samples is not None
        if theirs is not None:
            measuring.check(samples, theirs, instruments)
        if not world.main:
            for _ in samples.at(range(samples.n)):  # draws its share
                pass
            return
        crew = ALONE
        if world.size == 1:
            room = partial(measuring.memory, model, shape, measured_by)
            crew = crew_of(os.cpu_count() or 1, at_once, threads, world.device, "samples are drawn and measured", room)
        progress.at_once = crew.at_once
        progress.expect(reference=theirs.about.n if theirs else 0, samples=samples.n // world.size)
        cache = Cache.of_user() if use_cache else None
        target: EventSet | Seen | KnownStatistics | None = theirs
        if isinstance(theirs, EventSet) and world.size == 1:  # before hours of drawing; other processes would not wait
            target = measuring.see(theirs, instruments, world.device, cache, partial(progress.heard, "reference"), crew)
        ours = measuring.see(samples, measured_by, world.device, watch=partial(progress.heard, "samples"), crew=crew)
        if save_statistics:
            with disk.writing(save_statistics, go_on="measure again, or choose another file"):
                _statistics(ours, instruments).save(save_statistics)
        evaluation = None
        if target is not None:
            options: dict[str, Any] = {
                "kernel": kid,
                "manifold": precision_recall,
                "replicates": replicates,
                "device": world.device,
                "cache": cache,
                "drawing": drawing,
                "watch": progress.heard,
            }
            seen_in_training = model.run.trained_on() if model else ""
            evaluation = measuring.evaluate(ours, target, instruments, trained_on=seen_in_training, **options)
            if by is not None and label is not None:
                classes = by_class(by, label, (ours, samples), (target, theirs), instruments, **options)
                evaluation = with_classes(evaluation, classes)
        picture = None
        if evaluation is not None and search is not None:
            progress.heard("neighbours", 0)
            evaluation, picture = search.done(evaluation, ours, world.device, cache)
    if evaluation is None:
        _report_statistics(source, save_statistics, json)
    else:
        _report(evaluation, model.run if model else None, out, save_statistics, picture, replicates, json)


def _refuse_drawing(source: str, options: dict[str, Any], ema: bool | str) -> None:
    """Raise `ConfigError` for options that say how to draw samples, where they are there already."""
    given = [f"--{name} {value}" for name, value in options.items()]
    given += [] if ema is True else [f"--ema {ema}" if ema else "--no-ema"]
    if given:
        raise ConfigError(
            f"'{source}' is no run directory, and its events are measured as they are",
            where=" ".join(given),
            details=["such options say how samples are drawn from a run"],
            fix=f"leave {'it' if len(given) == 1 else 'them'} out, or give the directory that gendiff train made",
        )


def _statistics(ours: Seen, instruments: Sequence[Features | Metric]) -> Statistics:
    """Those of the first features."""
    from gendiff.evaluation.statistics import Statistics
    from gendiff.features import Features

    first = next(one for one in instruments if isinstance(one, Features))
    return Statistics.of(ours.rows[0], features=first.spec, fingerprint=first.fingerprint)


def _report_statistics(source: str, file: Path | None, json: bool) -> None:
    if json:
        json_result({"source": source, "statistics": str(file)})
    else:
        result(str(file))
    next_step(command("evaluate", "RUN", "--reference", file))


def _report(
    evaluation: Evaluation,
    run: Run | None,
    out: Path | None,
    statistics: Path | None,
    picture: Figure | None,
    replicates: int,
    json: bool,
) -> None:
    from gendiff.storage.folder import make_inside

    file = out or (run.evaluations / _name(evaluation) if run else None)
    if file:
        with disk.writing(file, go_on="measure again, or choose another --out"):
            if run and not out:
                make_inside(run.path, file.parent)
            evaluation.save(file)
            if picture:
                save_picture(picture, file)
    drawn = file and picture and picture_of(file)
    paths = {name: str(path) for name, path in (("file", file), ("picture", drawn), ("statistics", statistics)) if path}
    if json:
        json_result({**evaluation.json(), **paths})
    else:
        show_numbers(evaluation.numbers, replicates)
        show_remarks(evaluation.remarks)
        for name, path in paths.items():
            result(f"{name:10} {path}")
        for alarm in evaluation.alarms:
            paragraph(f"warning: {alarm}", indent=9)
    next_step(command("runs", "show", run.path) if run else command("plugins", "list", "--kind", "metric"))


def _name(evaluation: Evaluation) -> str:
    """A file name that tells evaluations of one run apart, the same for the same conditions."""
    one = evaluation.numbers[0]
    drawing = one.drawing
    assert drawing is not None
    conditions = [number.conditions for number in evaluation.numbers]
    digest = hashlib.sha256(repr(conditions).encode()).hexdigest()[:8]
    sampler = "".join(c if c.isalnum() or c in "-." else "-" for c in drawing.sampler)
    precision = "" if drawing.precision == "fp32" else f"-{drawing.precision}"
    return f"step-{drawing.step:08d}-{sampler[:60]}{precision}-seed{drawing.seed}-n{one.samples.n}-{digest}.json"


def _check_file(file: Path | None, option: str, suffix: str) -> None:
    """Refuse what could not be written, or would overwrite something else, before samples are drawn."""
    from gendiff.evaluation.number import Evaluation
    from gendiff.evaluation.statistics import Statistics

    if file is None:
        return
    if file.suffix != suffix:
        raise ConfigError(
            f"'{file}' does not end in {suffix}", where=option, fix=f"call it {quoted(file.with_suffix(suffix))}"
        )
    if file.exists():
        try:
            Statistics.load(file) if suffix == ".npz" else Evaluation.load(file)
        except DataError as error:
            what = f"'{file}' exists and is not what gendiff evaluate writes"
            raise ConfigError(what, where=option, details=[error.what], fix="choose a new file") from error
    elif not file.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder '{file.parent}'", where=option, fix="make it, or choose another file")


class _Progress:
    """What is being done, on a terminal: a bar for the reference and one for the samples, then a word for each distance."""

    def __init__(self) -> None:
        self.bar = progress()
        self.tasks: dict[str, Any] = {}
        self.totals: dict[str, int | None] = {}
        self.chain = 1  # evaluations of the network for each sample
        self.at_once = 1  # processes that draw: of those beside this one no step is heard

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def expect(self, reference: int | None, samples: int) -> None:
        """Say how many events there are."""
        self.totals = {"reference": reference, "samples": samples * self.chain}

    def snapshot(self, snapshot: Snapshot) -> None:
        """Hear of a step of the chains that this process draws."""
        if snapshot.pivot is not None:
            self._advance("samples", len(snapshot.x_bar))

    def heard(self, stage: str, count: int) -> None:
        """Hear of events that were gone through, or of what is computed from them."""
        if stage != "samples" or self.chain == 1:
            self._advance(stage, count)
        elif self.at_once > 1:
            self._advance(stage, count * self.chain)

    def _advance(self, stage: str, count: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bar.add_task(stage, total=self.totals.get(stage))
        self.bar.advance(self.tasks[stage], count)
