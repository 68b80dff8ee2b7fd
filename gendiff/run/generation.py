"""Generation: pictures from a trained run.

The same image for the same seed, to the bit: image k draws its noise from its own stream, and everything is computed in
batches of one size, for the last bits of a convolution and of a matrix product depend on it. Neither the batch size, nor the
number of processes, nor which other images are drawn matters.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.command import command, option, setting
from gendiff.component import parse_spec, spec_value
from gendiff.data import Data
from gendiff.datasets import pictures
from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, GendiffError
from gendiff.guide import Guide, Scene, guided
from gendiff.machine.recording import recorder_for
from gendiff.machine.stopping import heed
from gendiff.plugin.discovery import version
from gendiff.run import checkpoint, posthoc
from gendiff.run.asked import Asked
from gendiff.run.config import Config
from gendiff.run.curve import Point, curve
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser, hasten, load_weights, score_of
from gendiff.run.origin import Origin
from gendiff.run.replayed import Replayed
from gendiff.run.settings import TrainSettings
from gendiff.run.stored import difference
from gendiff.sampler import CHUNK, Sampler, Snapshot, sample
from gendiff.score import ScoreModel
from gendiff.shapes import ShownByShape, check_number
from gendiff.storage.files import Files
from gendiff.storage.folder import make_inside
from gendiff.streams import ImageNoise, stream

HOPELESS = 16  # images, from the first on, that are not finite: then no more are drawn
LOOKED = 256  # images that are drawn where one is not finite, to say which are not
SHOWN = 20  # numbers of images in one message


class NotFinite(GendiffError):
    """Images that were drawn hold values that are not finite (exit code 1)."""


@dataclass(frozen=True, repr=False)
class Belief(ShownByShape):
    """What a network believes of events that it sees corrupted, in event space: x̂_0 and ε̂, each ``(B, *event)``."""

    x_0: Tensor
    eps: Tensor


@dataclass(frozen=True, repr=False)
class TrainedModel:
    """A run's network, ready to sample: what `gendiff.load` and `gendiff.train` give.

    Args:
        weights: ``"ema"``, ``"model"``, or which of several averages, such as ``"ema-0.9999"`` or ``"posthoc-0.05"``, and the
            hash of their file, or of what was made of files.

    """

    run: Run
    denoiser: Denoiser
    step: int
    weights: str
    weights_hash: str

    @classmethod
    def load(
        cls,
        run: Run,
        device: torch.device,
        ema: bool | str = True,
        problems: list[str] | None = None,
        *,
        precision: str = "fp32",
        compiled: bool = False,
        step: int | None = None,
    ) -> TrainedModel:
        """The newest usable checkpoint, or that of a step.

        Args:
            run: where it is.
            device: where the network is to be.
            ema: which weights: True for the averages, where the run has them, the first of several; False for the raw ones; a
                decay such as ``"0.9999"`` for one of several; ``"posthoc:WIDTH"`` for an average that is made of snapshots.
            problems: why damaged checkpoints and snapshots were passed over is appended.
            precision: in which the network runs, ``fp32``, ``bf16``, or ``auto``: what its device computes well.
            compiled: whether it is compiled when it is asked first.
            step: of the checkpoint; left out, the newest.

        Raises `DataError` where there is none, and for weights that are not finite or of another network; `ConfigError` for an
        average that the run does not have.
        """
        kind, _, width = ema.partition(":") if isinstance(ema, str) else ("", "", "")
        groups = ("model",) if kind == "posthoc" else _groups(run.config.train, ema)
        newest = (
            checkpoint.newest(run.checkpoints, problems, groups)
            if step is None
            else checkpoint.at(run.checkpoints, step, groups)
        )
        path = checkpoint.directory(run.checkpoints, newest.step)
        denoiser = build_denoiser(run.config, device)
        if kind == "posthoc":
            weights = posthoc.average(run.snapshots, _width(width), newest.step, problems)
            load_weights(denoiser.network, weights, str(run.snapshots))
            hasten(denoiser, precision, compiled)
            return cls(run, denoiser.eval(), newest.step, f"posthoc-{_width(width)!r}", posthoc.digest(weights))
        group = next((one for one in groups if one in newest.tensors), groups[-1])
        load_weights(denoiser.network, newest.tensors.get(group, {}), str(path / f"{group}.safetensors"))
        hasten(denoiser, precision, compiled)
        return cls(run, denoiser.eval(), newest.step, group, checkpoint.weights_hash(path, group))

    def __repr__(self) -> str:
        weights = {"ema": "averaged", "model": "current"}.get(self.weights, self.weights)
        return f"TrainedModel({str(self.run.path)!r}, step {self.step}, {weights} weights, {self.diffusion})"

    @property
    def config(self) -> Config:
        """All that defines the run."""
        return self.run.config

    @property
    def curve(self) -> list[Point]:
        """The looks at the losses of held-out and of training events, first to last; empty where nothing is held out."""
        return curve(self.run.rows())

    @property
    def data(self) -> Data:
        """What it was trained on; raises `DataError` where they are gone, or not as they were."""
        return self.run.data()

    @property
    def diffusion(self) -> Diffusion:
        """The process of the run, on the device of the network."""
        return self.denoiser.diffusion

    @property
    def network(self) -> nn.Module:
        """The network, with these weights."""
        return self.denoiser.network

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.parameters()).device

    @property
    def score(self) -> NetworkScore:
        """The network as a score model, for `sample` and all else that asks one."""
        return score_of(self.denoiser, self.diffusion, self.config)

    def sample(
        self,
        n: int = 64,
        sampler: Sampler | str | None = None,
        seed: int = 0,
        *,
        condition: Mapping[str, Any] | None = None,
        guide: Guide | str | Sequence[Guide | str] = (),
    ) -> Tensor:
        """The first ``n`` events of a seed, ``(n, *event)`` on the CPU, equal to what ``gendiff sample`` draws before it rounds.

        Args:
            sampler: a sampler or its spec; left out, the one of the run.
            condition: by name a value, or a list of values that are drawn in turn, ``{"label": 3}``, ``{"label": [3, 5]}``;
                left out, every class in turn.
            guide: a guide or its spec, or several in the order in which they are put on: ``"cfg:weight=3"``.

        Raises:
            ConfigError: for a sampler that cannot sample this process, a condition that the network does not take, and a guide
                that cannot guide it.
            NotFinite: where events are not finite.

        """
        choice = self.config.sampler if sampler is None else sampler
        if isinstance(choice, str):
            own = {"N": self.config.N, "sampler": self.config.sampler.table()}
            choice = resolve([Layer("the run", own), Layer("sampler", {"sampler": choice})]).config.sampler
        images = range(check_number(n, "n"))
        guides = [Guide(one) for one in ([guide] if isinstance(guide, Guide | str) else guide)]
        asked = Asked.of(self.config, condition, guides)
        drawn = generate(self.denoiser, self.run, choice, seed, images, n, asked=asked)
        return torch.cat([events.cpu() for events in drawn])

    def check(self, asked: Asked) -> None:
        """Raise `ConfigError` for a guide that cannot guide this network, before anything is drawn."""
        model = self.score.given(asked.told(self.config.conditions, [0]))
        guided(model, asked.guides, _scene(self.run, self.denoiser, asked).rows([0]))

    def origin(self, sampler: Sampler, seed: int, n: int, *options: str, asked: Asked | None = None) -> Origin:
        """What made the first ``n`` events of a seed; ``options`` of ``gendiff sample`` belong to its command."""
        weights = (self.step, self.weights, self.weights_hash)
        return origin(self.run, self.denoiser, sampler, weights, seed, n, *options, asked=asked)

    def predict(self, x: Tensor, i: int | Tensor) -> Belief:
        """What the network believes of corrupted events ``x_i``, ``(B, *event)``, at one step or steps ``(B,)`` in 1..N.

        Autograd follows where ``x`` requires a gradient.
        """
        with torch.set_grad_enabled(x.requires_grad):
            pivot = self.score.predict(self.diffusion.rotate(x), i)
            return Belief(self.diffusion.unrotate(pivot.x_0), self.diffusion.unrotate(pivot.eps))


def _groups(settings: TrainSettings, ema: bool | str) -> tuple[str, ...]:
    """The groups of a checkpoint of which the first that there is are the weights that are asked for."""
    averages = settings.averages
    if isinstance(ema, bool):
        return (*list(averages)[:1], "model") if ema else ("model",)
    try:
        return (next(group for group, decay in averages.items() if decay == float(ema)),)
    except (ValueError, StopIteration):
        known = [*(f"{decay!r}" for decay in averages.values()), *(["posthoc:WIDTH"] if settings.posthoc else [])]
        raise ConfigError(
            f"the run has no averaged weights '{ema}'",
            where=option("--ema"),
            details=[f"it has: {', '.join(known) or 'none'}"],
            fix=f"choose one of them, or {option('--no-ema')} for the raw weights"
            + (
                ""
                if settings.posthoc
                else f"; runs with {setting('train.posthoc', '[0.05,0.1]')} have any, as posthoc:WIDTH"
            ),
        ) from None


def _width(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"cannot read the width '{text}'",
            where=option("--ema"),
            fix=f"write {option('--ema', 'posthoc:0.1')}: its std in parts of the run",
        ) from None


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
    scene = _scene(run, denoiser, asked)
    chunk = chunk or CHUNK[device.type]
    size, bad = min(batch, chunk), list[int]()
    for start in range(0, len(images), size):
        part = images[start : start + size]
        numbers = [*part, *[part[0]] * (chunk - len(part))]
        noise = ImageNoise(seed, numbers, config.data.event_shape, device)
        begin = (
            _from_data(denoiser.diffusion, run.data(), seed, numbers).to(device) if sampler.prior == "data" else None
        )
        observer = _first(len(part), watch)
        here = scene.rows(numbers)
        steered = guided(model.given(asked.told(config.conditions, numbers)), asked.guides, here)
        plan = reduce(lambda own, guide: guide.sampler(own, here), asked.guides, sampler)
        events = sample(denoiser.diffusion, steered, plan, noise, start=begin, watch=observer)[: len(part)]
        finite = events.flatten(1).isfinite().all(1).tolist()
        bad += [image for image, whole in zip(part, finite, strict=True) if not whole]
        count = start + len(part)
        if bad and (count in (len(images), len(bad)) or count >= LOOKED) and count >= min(HOPELESS, len(images)):
            raise _not_finite(bad, count, len(images), sampler, seed)
        if not bad:
            yield events


def _scene(run: Run, denoiser: Denoiser, asked: Asked) -> Scene:
    dropout = run.config.train.condition_dropout
    return Scene(denoiser.diffusion, dropout, _others(run, denoiser), asked.measurement)


def _others(run: Run, denoiser: Denoiser) -> Callable[[str], ScoreModel]:
    """The networks of other checkpoints, by ``@STEP`` of this run or ``RUN@STEP``, each loaded once; see `Scene.other`."""
    device, recorder = next(denoiser.parameters()).device, recorder_for(next(denoiser.parameters()).device)

    @cache
    def other(name: str) -> ScoreModel:
        path, step, raw = _named(name)
        source = Run.open(path) if path else run
        if source.config.conditions != run.config.conditions:
            raise ConfigError(
                f"'{name}' is told of other conditions than this run",
                details=[f"of {', '.join(source.config.conditions) or 'nothing'}; the classes and ranges count too"],
                fix="name a run that is told of the same",
            )
        there = checkpoint.steps(source.checkpoints)
        if step is not None and step not in there:
            raise ConfigError(
                f"'{name}' names no checkpoint: there is none of step {step}",
                details=[f"steps in '{source.checkpoints}': {', '.join(map(str, sorted(there))) or 'none'}"],
                fix="name one of them; train with --keep to have more of them",
            )
        model = TrainedModel.load(source, device, not raw, precision=denoiser.precision, step=step)
        if apart := difference(model.diffusion, denoiser.diffusion):
            raise ConfigError(
                f"'{name}' was trained with another process than this run",
                details=[f"they differ: {apart}"],
                fix="name a run of the same process",
            )
        network = model.denoiser if recorder is None else Replayed(model.denoiser, recorder)
        return score_of(network, model.diffusion, source.config)

    return other


def _named(name: str) -> tuple[Path | None, int | None, bool]:
    """The run, None for this one, the step, None for the newest, and whether raw weights are meant."""
    path, at, step = name.rpartition("@")
    step, colon, kind = step.partition(":")
    if not at or not (step == "last" or step.isdecimal()) or (colon and kind != "raw"):
        raise ConfigError(
            f"'{name}' names no checkpoint",
            details=[
                "allowed: @STEP of this run, RUN@STEP of another, @last for the newest, :raw after it for raw weights"
            ],
            fix="write such as @1000, @last:raw or runs/small@1000",
        )
    return Path(path) if path else None, None if step == "last" else int(step), bool(colon)


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
    save_sheet(run, path, events)
    return events


def save_sheet(run: Run, path: Path, events: Tensor, made_by: Origin | None = None) -> None:
    """Write a grid of events as a picture in a run, to the disk, whole or not at all; it says what it was made by."""
    content = io.BytesIO()
    pictures.write_png(content, pictures.sheet(events), made_by.text if made_by else "")
    make_inside(run.path, path.parent)
    Files().replace(path, content.getvalue())


def origin(
    run: Run,
    denoiser: Denoiser,
    sampler: Sampler,
    weights: tuple[int, str, str],
    seed: int,
    n: int,
    *options: str,
    asked: Asked | None = None,
) -> Origin:
    """What makes the first ``n`` events of a seed: the run, its ``weights`` (step, group, hash), and how they are drawn."""
    config, info = run.config, run.info
    step, group, digest = weights
    averaged, decay = group != "model", config.train.averages.get(group)
    width = group.removeprefix("posthoc-") if group.startswith("posthoc-") else ""
    strangers = {what: who for what, who in info.get("providers", {}).items() if not who.get("built_in")}
    grid = getattr(sampler, "grid", None)
    again = ["--n", n, "--sampler", _spec_on(config, sampler), "--seed", seed, *([] if averaged else ["--no-ema"])]
    if not averaged and not config.train.ema:
        again.remove("--no-ema")
    if width or (averaged and group != next(iter(config.train.averages), "")):
        again += ["--ema", f"posthoc:{width}" if width else str(decay)]
    if denoiser.precision != "fp32":
        again += ["--precision", denoiser.precision]
    asked = asked or Asked.of(config)
    again += asked.options
    return Origin(
        {
            "run": {"id": info["id"], "name": run.path.name},
            "step": step,
            "weights": {
                "kind": "averaged" if averaged else "raw",
                **({"decay": decay} if decay is not None else {"width": float(width)} if width else {}),
                "hash": digest,
            },
            "process": {
                "rotation": _recorded(run, "rotation"),
                "velocity": _recorded(run, "velocity"),
                "N": config.N,
                "sha256": str(info.get("process", {}).get("sha256", ""))[:12],
            },
            "objective": _recorded(run, "objective"),
            "model": _recorded(run, "model"),
            "data": info["data"]["fingerprint"],
            "sampler": {
                "spec": sampler.spec,
                "steps": getattr(sampler, "steps", None),
                "evaluations": len(sampler.plan(denoiser.diffusion)),
                "grid": grid.spec if grid is not None else None,
                "prior": sampler.prior,
            },
            **asked.facts(config.conditions),
            "seed": seed,
            "n": n,
            "precision": denoiser.precision,  # of what is drawn, however the network was trained
            "device": device_name(next(denoiser.parameters()).device),
            "versions": {package: version(package) for package in ("gendiff", "torch", "numpy")},
            "plugins": {what: f"{who['plugin']} from {who['origin']}" for what, who in strangers.items()},
            "command": command("sample", Path(f"{run.path}@{step}"), *again, *options),
        }
    )


def _recorded(run: Run, key: str) -> dict[str, Any]:
    """A component as config.toml has it: the same where numbers stand in for a plugin that is gone."""
    entry = run.table.get(key)
    return dict(entry) if isinstance(entry, dict) else parse_spec(entry or getattr(run.config, key).spec)


def _spec_on(config: Config, sampler: Sampler) -> str:
    """The spec that gives this sampler when it is named for a run, whose own sampler lends one of its name what is not said."""
    own = {"N": config.N, "sampler": config.sampler.table()}
    if resolve([Layer("the run", own), Layer("sampler", {"sampler": sampler.spec})]).config.sampler == sampler:
        return sampler.spec
    table = {key: value for key, value in sampler.table().items() if key != "name"}
    return f"{sampler.name}:{','.join(f'{key}={spec_value(value)}' for key, value in table.items())}"


def device_name(device: torch.device) -> str:
    """A device as a reader knows it: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Trajectory:
    """Keeps ``count`` equally spaced views of a chain, prior and result among them, for the first ``rows`` events.

    Views are x_i in event space: what the reverse process really looks like.
    """

    def __init__(self, denoiser: Denoiser, sampler: Sampler, count: int = 11, rows: int = 8) -> None:
        self.diffusion = denoiser.diffusion
        last = len(sampler.plan(self.diffusion))
        if count < 2:
            raise ConfigError(f"a trajectory of {count} views", fix="choose at least 2")
        self.numbers = {round(k * last / (count - 1)) for k in range(count)}
        self.rows = rows
        self.views: dict[int, list[Tensor]] = {}

    def __call__(self, snapshot: Snapshot) -> None:
        if snapshot.number in self.numbers and sum(map(len, self.views.get(snapshot.number, []))) < self.rows:
            self.views.setdefault(snapshot.number, []).append(self.diffusion.unrotate(snapshot.x_bar).cpu())

    @property
    def events(self) -> list[Tensor]:
        """The views from noise to data, each ``(<= rows, *event)``."""
        return [torch.cat(self.views[number])[: self.rows] for number in sorted(self.views)]
