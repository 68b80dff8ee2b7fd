"""Generation: pictures from a trained run.

The same image for the same seed, to the bit: image k draws its noise from its own stream, and everything is computed in
batches of one size, for the last bits of a convolution and of a matrix product depend on it. Neither the batch size, nor the
number of processes, nor which other images are drawn matters.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gendiff.command import option
from gendiff.data import Data
from gendiff.datasets import pictures
from gendiff.denoiser import Denoiser
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, GendiffError
from gendiff.grid import partway
from gendiff.guide import course, rebased
from gendiff.machine.recording import recorder_for
from gendiff.machine.stopping import heed
from gendiff.run.asked import Asked
from gendiff.run.directory import Run
from gendiff.run.network import score_of
from gendiff.run.origin import Origin
from gendiff.run.others import scene_of
from gendiff.run.replayed import Replayed
from gendiff.sampler import CHUNK, Sampler, Snapshot, sample
from gendiff.storage.files import Files
from gendiff.storage.folder import make_inside
from gendiff.streams import ImageNoise, stream

HOPELESS = 16  # images, from the first on, that are not finite: then no more are drawn
LOOKED = 256  # images that are drawn where one is not finite, to say which are not
SHOWN = 20  # numbers of images in one message


class NotFinite(GendiffError):
    """Images that were drawn hold values that are not finite (exit code 1)."""


def generate(
    denoiser: Denoiser,
    run: Run,
    sampler: Sampler,
    seed: int,
    images: Sequence[int],
    batch: int,
    watch: Callable[[Snapshot], None] | None = None,
    chunk: int | None = None,
    asked: Asked | None = None,
) -> Iterator[Tensor]:
    """Draw the images of these numbers, at most ``batch`` at a time; yields ``(<= batch, *event)``.

    ``chunk`` is how many events are computed at once, made up to that number where fewer are asked for; another one gives
    the same images up to rounding. ``watch`` sees only what was asked for. ``asked`` is what is to be drawn; left out, every
    class in turn where the network is told of one.

    Raises `NotFinite` where images are not finite. The first that is not ends what is yielded, and more are drawn, up to 256, so
    that all of these can be named, but where all are lost.
    """
    config = run.config
    device = next(denoiser.parameters()).device
    recorder = recorder_for(device)
    network = denoiser if recorder is None else Replayed(denoiser, recorder)
    model = score_of(network, denoiser.diffusion, config)
    asked = Asked.of(config) if asked is None else asked
    process, sampler = whence(denoiser.diffusion, sampler, asked)
    scene = scene_of(run, denoiser, asked, process)
    chunk = chunk or CHUNK[device.type]
    size, bad = min(batch, chunk), list[int]()
    for start in range(0, len(images), size):
        part = images[start : start + size]
        numbers = [*part, *[part[0]] * (chunk - len(part))]
        noise = ImageNoise(seed, asked.draws(numbers), config.data.event_shape, device)
        begin = _begun(process, sampler, run, seed, numbers, asked, noise)
        observer = _first(len(part), watch)
        told = model.given(asked.told(config.conditions, numbers))
        way = course(told, sampler, asked.guides, scene.rows(numbers))
        begin = begin if begin is None else rebased(begin, process, way.diffusion)
        events = sample(way.diffusion, way.model, way.sampler, noise, start=begin, watch=observer)[: len(part)]
        finite = events.flatten(1).isfinite().all(1).tolist()
        bad += [image for image, whole in zip(part, finite, strict=True) if not whole]
        count = start + len(part)
        if bad and (count in (len(images), len(bad)) or count >= LOOKED) and count >= min(HOPELESS, len(images)):
            raise _not_finite(bad, count, len(images), sampler, seed)
        if not bad:
            yield events


def whence(diffusion: Diffusion, sampler: Sampler, asked: Asked) -> tuple[Diffusion, Sampler]:
    """The process and the sampler for what is asked: of events that are gone on from, their first part alone."""
    if asked.source is None:
        return diffusion, sampler
    i = asked.start(diffusion.N)
    return diffusion.until(i), partway(sampler, i / diffusion.N)


def _begun(
    diffusion: Diffusion,
    sampler: Sampler,
    run: Run,
    seed: int,
    images: Sequence[int],
    asked: Asked,
    noise: ImageNoise,
) -> Tensor | None:
    """Where the chains of these images begin, where the sampler does not draw it: ``(B, *event)`` in rotated coordinates."""
    device = diffusion.scales.device
    if asked.source is not None:
        x_0 = asked.source[[k % asked.events for k in images]].to(device)
        return diffusion.corrupted(diffusion.at(diffusion.N), diffusion.rotate(x_0), diffusion.rotate(noise()))
    return _from_data(diffusion, run.data(), seed, images).to(device) if sampler.prior == "data" else None


def _not_finite(bad: Sequence[int], count: int, total: int, sampler: Sampler, seed: int) -> NotFinite:
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return NotFinite(
        f"{len(bad)} of {'' if count == total else 'the first '}{count} samples hold values that are not finite",
        details=[
            f"samples {', '.join(map(str, bad[:SHOWN]))}{more} of seed {seed}, drawn by {sampler.spec}",
            "the weights are finite: it is what the network makes of them",
        ],
        fix=f"train again with a lower {option('--lr')}, or with {option('--precision', 'fp32')}"
        if len(bad) == count
        else f"try {option('--sampler')} with more steps or clip=true, or train longer",
    )


def _from_data(diffusion: Diffusion, data: Data, seed: int, images: Sequence[int]) -> Tensor:
    """``a_N x̄_0``: each image has an event of its own, which depends on its number alone."""
    among = data.length or 2**31
    indices = [int(torch.randint(among, (), generator=stream(seed, "prior", image))) for image in images]
    x_0 = torch.stack([data[index] for index in indices]).to(diffusion.scales.device)
    return diffusion.at(diffusion.N).a * diffusion.rotate(x_0)


def _first(count: int, watch: Callable[[Snapshot], None] | None) -> Callable[[Snapshot], None]:
    """``watch`` for the first ``count`` events; between two evaluations a request to stop is heard."""

    def seen(snapshot: Snapshot) -> None:
        heed()
        if watch is not None:
            watch(snapshot.first(count))

    return seen


def draw(
    denoiser: Denoiser,
    run: Run,
    sampler: Sampler,
    count: int,
    watch: Callable[[int, int], None] = lambda evaluations, total: None,
) -> Tensor:
    """The first ``count`` images of the run's own seed, ``(count, *event)`` on the CPU; raises `NotFinite`.

    ``watch`` hears how many evaluations of the network are done, of how many, 0 first.
    """
    denoiser.eval()
    chunks = -(-count // min(count, CHUNK[next(denoiser.parameters()).device.type]))
    total = chunks * len(sampler.plan(denoiser.diffusion))
    evaluations = 0

    def tell(snapshot: Snapshot) -> None:
        nonlocal evaluations
        if snapshot.pivot is not None:
            evaluations += 1
            watch(evaluations, total)

    watch(0, total)
    return torch.cat(list(generate(denoiser, run, sampler, run.config.train.seed, range(count), count, tell))).cpu()


def draw_grid(denoiser: Denoiser, run: Run, sampler: Sampler, path: Path, count: int = 16) -> Tensor:
    """Write a grid of these images; returns them."""
    events = draw(denoiser, run, sampler, count)
    save_sheet(run, path, run.config.data.pictures(events))
    return events


def save_sheet(run: Run, path: Path, events: Tensor, made_by: Origin | None = None) -> None:
    """Write a grid of pictures as one picture in a run, to the disk, whole or not at all; it says what it was made by."""
    content = io.BytesIO()
    pictures.write_png(content, pictures.sheet(events), made_by.text if made_by else "")
    make_inside(run.path, path.parent)
    Files().replace(path, content.getvalue())


class Trajectory:
    """Keeps ``count`` equally spaced views of a chain, prior and result among them, for the first ``rows`` events.

    Views are x_i in event space, as the ``data`` of the run show it: what the reverse process really looks like.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        count: int = 11,
        rows: int = 8,
        asked: Asked | None = None,
        data: Data | None = None,
    ) -> None:
        self.diffusion, sampler = whence(denoiser.diffusion, sampler, asked or Asked())
        last = len(sampler.plan(self.diffusion))
        if count < 2:
            raise ConfigError(f"a trajectory of {count} views", fix="choose at least 2")
        self.numbers = {round(k * last / (count - 1)) for k in range(count)}
        self.rows = rows
        self.data = data
        self.views: dict[int, list[Tensor]] = {}

    def __call__(self, snapshot: Snapshot) -> None:
        if snapshot.number in self.numbers and sum(map(len, self.views.get(snapshot.number, []))) < self.rows:
            self.views.setdefault(snapshot.number, []).append(self.diffusion.unrotate(snapshot.x_bar).cpu())

    @property
    def events(self) -> list[Tensor]:
        """The views from noise to data, each ``(<= rows, *picture)``."""
        views = [torch.cat(self.views[number])[: self.rows] for number in sorted(self.views)]
        return views if self.data is None else list(map(self.data.pictures, views))
