"""``gendiff data``."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, PluginError
from gendiff_cli.commands import Group
from gendiff_cli.console import counted, err, json_result, next_step, note, plain, progress, result, table
from gendiff_cli.options import JsonOption, spec_option

if TYPE_CHECKING:
    from gendiff.datasets.images import ImageData
    from gendiff.datasets.packed import PackedSet
    from gendiff.datasets.preparation import Resize
    from gendiff.plugin.registry import Registry
    from gendiff.run.layers import Resolved

app = typer.Typer(cls=Group, no_args_is_help=True)

ENDLESS = 1000  # events of an endless source that `info` looks at where no number is given
FLOAT = 1e-6  # differences up to here are those of float32, and no value was rounded
CLASSES = 12  # of a label shown with their counts
SHOWN = 5  # groups of duplicates, and bad events, that are shown; --json has all


class Choice(Enum):
    """One of a few words."""

    def __str__(self) -> str:
        return str(self.value)


class Crop(Choice):
    """What becomes of proportions that are not those of the size."""

    none = "none"
    center = "center"


class OnBadImage(Choice):
    """What becomes of a picture that cannot be read."""

    error = "error"
    skip = "skip"


SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Data, such as 'lsun:path=DIR', or a path: a folder or zip of pictures, LSUN, CIFAR-10, MNIST, .npy, ...",
        metavar="SOURCE",
        show_default=False,
    ),
]
SizeOption = Annotated[str | None, typer.Option(help="Size of pictures: 64, or 64x96 (height x width).")]
ChannelsOption = Annotated[int | None, typer.Option(help="3: colour, 1: grey; for files of pictures.")]
CropOption = Annotated[
    Crop | None, typer.Option(help="none: squeeze, as Lee et al. do; center: cut off what sticks out.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that read; 0 is this one alone. The result is the same. Default: as many as cores."
    ),
]


@app.callback()
def data() -> None:
    """Sources of events."""


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the data sources and their parameters."""
    registry: Registry = context.obj
    sources: list[dict[str, Any]] = []
    for entry in registry.entries("data"):
        try:
            fields = entry.load().model_fields
        except PluginError as error:
            note(f"left out: {error.what}: {error.details[0]}")
            continue
        sources.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "provider": str(entry.provider),
                "parameters": {name: info.description or "" for name, info in fields.items()},
            }
        )
    if json:
        json_result({"data": sources})
        return
    rows = [(source["name"], source["summary"], ", ".join(source["parameters"]) or "none") for source in sources]
    table(["name", "what it is", "parameters"], rows)
    next_step("gendiff train --data dead-leaves --size 32")


@app.command()
def prepare(
    context: typer.Context,
    source: SourceArgument,
    dest: Annotated[Path, typer.Argument(help="A new directory, or one to go on with.", metavar="DEST")],
    size: SizeOption = None,
    channels: ChannelsOption = None,
    crop: CropOption = None,
    latent: Annotated[
        str | None,
        spec_option("latent", "Pack the latents that an autoencoder makes of the pictures: diffusers:path=DIR."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Only the first N events.")] = None,
    on_bad_image: Annotated[
        OnBadImage, typer.Option(help="error: stop and name it; skip: leave it out, count and list it.")
    ] = OnBadImage.error,
    workers: WorkersOption = None,
    device: Annotated[
        str | None,
        typer.Option(help="With --latent: cpu, cuda or cuda:K; a GPU where there is one, and then one process reads."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Pack any data into one memory-mapped set of 8-bit events, or of their latents, for --data packed:path=DEST.

    It can be interrupted in any way: the same command goes on where it stopped, to the same bits.
    """
    from gendiff.component import spec_value
    from gendiff.datasets.latents import Latents
    from gendiff.datasets.packing import pack
    from gendiff.datasets.sources import tolerant
    from gendiff.machine.workers import default_workers
    from gendiff.machine.world import choose_device

    settings, resize = _resolved(context.obj, source, size, channels, crop, latent)
    skip = on_bad_image is OnBadImage.skip
    if device is not None and not latent:
        raise ConfigError("--device is of an autoencoder", fix="say which: --latent SPEC, or leave it out")
    with settings.locating(), counting("packed") as watch:
        data = tolerant(settings.config.data) if skip else settings.config.data
        if isinstance(data, Latents):
            place = choose_device(device)
            data, workers = data.on(place), workers if place.type == "cpu" else 0
        events = pack(
            data,
            dest,
            resize=resize,
            n=n,
            skip_bad=skip,
            workers=default_workers() if workers is None else workers,
            watch=watch,
        )
    if not watch.was_called:
        note(f"'{dest}' holds all of it already")
    _report(events, json)
    next_step(command("train", "--data", f"packed:path={spec_value(str(dest))}"))


@app.command()
def info(
    context: typer.Context,
    source: SourceArgument,
    size: SizeOption = None,
    channels: ChannelsOption = None,
    crop: CropOption = None,
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", min=1, help=f"Look at N events, evenly spread; of endless data at {ENDLESS:,}."),
    ] = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
) -> None:
    """Show what data hold: count, mean and contrast, spectrum, duplicates, and what cannot be read."""
    from gendiff.datasets.census import census
    from gendiff.datasets.images import ImageData
    from gendiff.datasets.sources import tolerant
    from gendiff.machine.workers import default_workers

    settings, resize = _resolved(context.obj, source, size, channels, crop)
    if resize is not None:
        what = f"data '{settings.config.data.name}' has its own size"
        raise ConfigError(what, where="--size" if size else "--crop", fix="leave it out")
    with settings.locating(), counting("looked at") as watch:
        source_data = tolerant(settings.config.data)
        count = ENDLESS if n is None and source_data.length is None else n
        fingerprint = source_data.fingerprint
        summary = census(source_data, count, default_workers() if workers is None else workers, watch)
    bad = [*((str(name), why) for name, why in source_data.skipped), *summary.bad]
    others = dict(source_data.passed_over) if isinstance(source_data, ImageData) else {}
    sizes = _own_sizes(source_data) if isinstance(source_data, ImageData) else []
    facts: dict[str, Any] = {
        "data": source_data.spec,
        "fingerprint": fingerprint,
        "count": source_data.length,
        "event_shape": list(source_data.event_shape),
        "looked_at": summary.looked_at,
        "declared_range": source_data.value_range,
        "range": [summary.least, summary.greatest],
        "mean": summary.mean,
        "contrast": summary.contrast,
        "spectrum_slope": summary.slope,
        "conditions": {
            name: {**one.table(), **({"counts": summary.classes[name]} if name in summary.classes else {})}
            for name, one in source_data.conditions.items()
        },
        "duplicates": [[{"index": k, "name": source_data.origin(k)} for k in group] for group in summary.duplicates],
        "bad": [{"name": name, "reason": why} for name, why in bad],
        "passed_over": others,
        "own_sizes": [[*size, number] for size, number in sizes],
    }
    if json:
        json_result(facts)
    else:
        _show(facts)
    if source_data.name != "packed" and source_data.in_pictures:  # packed, anything else would be rounded to 8 bits
        options = [
            *(["--n", 10000] if source_data.length is None else []),
            *(["--on-bad-image", "skip"] if bad else []),
            *(["--size", size] if size else []),
            *(["--channels", channels] if channels else []),
            *(["--crop", crop] if crop else []),
        ]
        next_step(command("data", "prepare", Path(source) if source.startswith("-") else source, "NEW", *options))
    else:
        next_step(command("train", "--data", source_data.spec))


def _own_sizes(data: ImageData) -> list[tuple[tuple[int, int], int]]:
    """Which sizes pictures have before they are resized, the smallest first, and how many have each; of a thousand at most."""
    counts = collections.Counter(size for k in data.spread(ENDLESS) if (size := data.own_size(k)))
    return sorted(counts.items(), key=lambda pair: (math.prod(pair[0]), pair[0]))


# --- from words to data -----------------------------------------------------------------------------------------------


def _resolved(
    registry: Registry, text: str, size: str | None, channels: int | None, crop: Crop | None, latent: str | None = None
) -> tuple[Resolved, Resize | None]:
    """The data of a spec or path, and how to resize them where they cannot do that themselves."""
    from gendiff.component import component_class
    from gendiff.datasets.preparation import Resize
    from gendiff.datasets.sources import called_like_a_path, source
    from gendiff.errors import GendiffError
    from gendiff.run.layers import Layer, resolve
    from gendiff.run.shorthand import parse_size

    try:
        parameters = source(registry, text)
    except GendiffError as error:
        error.where = error.where or "SOURCE"
        raise
    fields = component_class("data", parameters["name"]).model_fields
    given = {"size": size and parse_size(size), "channels": channels, "crop": crop and crop.value}
    ours = set() if "size" in fields else {"size", "crop"}  # what is done here where the data cannot do it
    own = {key: value for key, value in given.items() if value is not None and key not in ours}
    flags = [Layer.at(f"--{key}", f"data.{key}", value) for key, value in own.items()]
    flags += [Layer.at("--latent", "latent", latent)] if latent else []
    with called_like_a_path(text, parameters["name"]):
        settings = resolve(
            [Layer("SOURCE", {"data": parameters}), *flags, Layer("--latent", {"latent": latent} if latent else {})]
        )
    if "size" in fields or not (size or crop):
        return settings, None
    if size is None:
        what = f"data '{parameters['name']}' keeps its own size, so there is nothing to cut"
        raise ConfigError(what, where="--crop", fix="give --size too, or leave --crop out")
    side = parse_size(size)
    height, width = (side, side) if isinstance(side, int) else side
    if not 1 <= min(height, width) <= max(height, width) <= 4096:
        raise ConfigError(f"a size of {size}", where="--size", details=["allowed: 1 to 4096"])
    return settings, Resize(height, width, crop.value if crop else "none")


# --- telling ----------------------------------------------------------------------------------------------------------


class Counter:
    """Told how many of how many events are done; ``called`` says whether it ever was."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self.tell = tell
        self.was_called = False

    def __call__(self, count: int, total: int) -> None:
        self.was_called = True
        self.tell(count, total)


@contextmanager
def counting(what: str) -> Iterator[Counter]:
    """A live line with count, images/s and ETA; a plain line now and then where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]:,.0f} images/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        speed,
        TimeRemainingColumn(),
    )
    starts: list[tuple[int, float]] = []
    last_tenth = [0]
    with progress(*columns) as bar:
        task = bar.add_task("reading the source", total=None, speed=0.0)

        def tell(count: int, total: int) -> None:
            if not starts:
                starts.append((count, time.perf_counter()))
                if count:
                    note(f"going on from {count:,} of {total:,}")
            first, since = starts[0]
            rate = (count - first) / max(time.perf_counter() - since, 1e-9)
            bar.update(task, description=what, completed=count, total=total, speed=rate)
            tenth = 10 * count // max(total, 1)
            if plain() and tenth > last_tenth[0] and count > first:
                last_tenth[0] = tenth
                err().print(f"{what} {count:,} of {total:,}  {rate:,.0f} images/s")

        yield Counter(tell)


def _report(events: PackedSet, json: bool) -> None:
    facts, bad = events.facts, events.facts["skipped"]
    if json:
        json_result({"path": str(events.path), "fingerprint": events.fingerprint, **facts})
        return
    resize = facts["source"]["resize"]
    lines = {
        "path": str(events.path),
        "events": f"{events.count:,} of {'x'.join(map(str, events.event_shape))}, {events.values.nbytes:,} bytes",
        "resized": f"{resize['filter']}, crop {resize['crop']}" if resize else "no",
        **(
            {"latents": f"of {facts['latent']['name']}, {facts['latent'].get('path', '')}"} if "latent" in facts else {}
        ),
        "rounding": f"at most {facts['largest_rounding']:.1e}"
        if facts["largest_rounding"] > FLOAT
        else "none: every value is kept",
        **({"conditions": ", ".join(events.columns)} if events.columns else {}),
        "source": f"{facts['source']['spec']}, fingerprint {facts['source']['fingerprint']}",
        "fingerprint": events.fingerprint,
    }
    for key, value in lines.items():
        result(f"{key:12} {value}")
    if bad["count"]:
        result(f"{'left out':12} {bad['count']:,}, listed in {events.path / 'packed.json'}")
        for name, why in bad["first"][:SHOWN]:
            result(f"{'':12} {name}: {why}")


def _show(facts: dict[str, Any]) -> None:
    length, groups = facts["count"], facts["duplicates"]
    number = "endless" if length is None else f"{length:,}"
    remark = "" if facts["looked_at"] == length else f", {facts['looked_at']:,} looked at"
    slope = facts["spectrum_slope"]
    bounds = facts["declared_range"]
    sizes = ["x".join(map(str, size)) for *size, _ in facts["own_sizes"]]
    lines = {
        "data": facts["data"],
        "fingerprint": facts["fingerprint"],
        "events": f"{number}{remark}, each {'x'.join(map(str, facts['event_shape']))}",
        **({"pictures": _between(sizes)} if sizes else {}),
        "range": "{:.3f} to {:.3f}".format(*facts["range"])
        + (" of {:g} to {:g}".format(*bounds) if bounds else ", unbounded"),
        "mean": "  ".join(f"{value:.4f}" for value in facts["mean"]) + "  by channel",
        "contrast": "  ".join(f"{value:.4f}" for value in facts["contrast"]) + "  by channel",
        "spectrum": "too few frequencies"
        if slope is None
        else f"slope {slope:.2f} (photographs: near -2; white noise: 0)",
        "duplicates": f"{sum(len(group) - 1 for group in groups):,} that repeat another exactly" if groups else "none",
    }
    duplicates = lines.pop("duplicates")
    for key, value in lines.items():
        result(f"{key:12} {value}")
    _show_conditions(facts["conditions"])
    result(f"{'duplicates':12} {duplicates}")
    for group in groups[:SHOWN]:
        names = [event["name"] for event in group]
        result(f"{'':12} {' = '.join(names[:SHOWN])}{' = ...' if len(names) > SHOWN else ''}")
    if facts["bad"]:
        result(f"{'unreadable':12} {len(facts['bad']):,}")
        for event in facts["bad"][:SHOWN]:
            result(f"{'':12} {event['name']}: {event['reason']}")
    if others := facts["passed_over"]:
        most = sorted(others, key=lambda ending: -others[ending])[:SHOWN]
        endings = ", ".join(f"{ending} ({others[ending]:,})" for ending in most)
        files, one = counted(sum(others.values()), "file"), sum(others.values()) == 1
        what = f"{files} that {'is no picture by its' if one else 'are no pictures by their'} ending: {endings}"
        result(f"{'passed over':12} {what}")


def _between(sizes: list[str]) -> str:
    """In words, which sizes pictures have."""
    if len(sizes) == 1:
        return f"each {sizes[0]} (height x width) as it lies there"
    return f"{sizes[0]} to {sizes[-1]} (height x width) as they lie there, {len(sizes):,} sizes"


def _show_conditions(conditions: dict[str, Any]) -> None:
    """A line for each condition, and one for each of the first classes of a label with how many events are of it."""
    key = "conditions"
    for name, one in conditions.items():
        if one["type"] != "label":
            size = "x".join(map(str, one["shape"]))
            what = "a number" if one["type"] == "vector" and size == "1" else f"{one['type']} of {size}"
            result(f"{key:12} {name}: {what} in [{one['low']:g}, {one['high']:g}]")
        else:
            counts = one["counts"]
            each = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{counts[0]:,}"
            result(f"{key:12} {name}: {len(counts):,} classes, {each} events each")
            pairs = list(zip(one["classes"], counts, strict=True))
            width = max(len(word) for word, _ in pairs[:CLASSES])
            for word, count in pairs[:CLASSES]:
                result(f"{'':12} {word:{width}}  {count:,}")
            if len(pairs) > CLASSES:
                result(f"{'':12} and {len(pairs) - CLASSES:,} more, all in --json")
        key = ""
