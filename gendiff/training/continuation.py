"""Continuation: what it takes to go on with a run, room, data as they were, and the command that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendiff.command import command, option, setting
from gendiff.condition import Condition
from gendiff.data import fingerprint_of
from gendiff.errors import ConfigError, DataError, GendiffError, Stopped, failure, printable
from gendiff.machine.workers import DataProcessDied
from gendiff.run import checkpoint, record
from gendiff.run.config import Config
from gendiff.run.directory import Run, refuse_no_run
from gendiff.run.history import flat
from gendiff.run.layers import Layer
from gendiff.run.provenance import beginning_from
from gendiff.run.roll import absence
from gendiff.run.settings import TrainSettings
from gendiff.storage import disk
from gendiff.training.trainer import Trainer

LISTED = 20  # pictures named in the record of a run


#: What a run may go on with otherwise, by the beginning of its key; all else would make another run of it.
CHANGEABLE = ("train.", "sampler", "data.on_bad_image", "hold_out.every")
FIXED = ("train.seed",)


def refuse_another_run(path: Path, changes: Iterable[Layer], words: Sequence[object] = ()) -> None:
    """Raise `ConfigError` where a change to a run that goes on would make another run of it.

    Args:
        words: of the command line, that begin a new run with these changes.

    """
    refuse_no_run(path)
    refusals, details = list[str](), list[str]()
    train = Run.stored_table(path).get("train", {})
    kept = {key: train[key] for key in ("ema", "posthoc") if key in train}
    for change in changes:
        for key, value in flat(change.table).items():
            if not key.startswith(CHANGEABLE) or key in FIXED:
                refusals.append(change.origin)
            elif key in ("train.ema", "train.posthoc") and _averages(kept) != _averages(
                {**kept, key.removeprefix("train."): value}
            ):
                refusals.append(change.origin)
                details.append("averages are kept from the first step on, or not at all")
    if refusals:
        what = ", ".join(dict.fromkeys(refusals))
        raise ConfigError(
            f"a run that goes on stays the run that it is; {what} would make another of it",
            where=option("--resume"),
            details=[
                *details,
                "it may go on with other settings of training (lr, batch, ema, precision, ..., not the seed), another sampler, "
                f"and {setting('data.on_bad_image', 'skip')}",
            ],
            fix=f"begin a new run with its weights: {beginning_from(path, record.read(path).get('given', {}), *words)}",
        )


def _averages(settings: Mapping[str, Any]) -> list[str]:
    """The names of the averages that are kept."""
    try:
        train = TrainSettings.model_validate(dict(settings))
    except ValueError:  # of which it is said elsewhere
        return []
    return [*train.averages, *train.profiles]


def resuming(run: Run, change: str = "", steps: int | None = None) -> str:
    """What goes on with a run: a command, or a call in Python where the run was given its data or its model there.

    Args:
        change: a setting that it is to have from there on.
        steps: up to which it is to go.

    """
    own: str = run.in_python.get("resume", "")
    if not own:
        further = [] if steps is None else ["--steps", steps]
        return command("train", "--resume", run.path, *(["--set", change] if change else []), *further)
    words = [own.removesuffix(")")]
    if change.startswith("data."):
        spec = run.config.data.spec
        words.append(f'data="{spec}{"," if ":" in spec else ":"}{change.removeprefix("data.")}"')
    elif change:
        words.append(change.removeprefix("train."))
    return f"{', '.join(words if steps is None else [*words, f'{steps=}'])})"


@contextmanager
def saving_on_failure(save: Callable[[], None]) -> Iterator[None]:
    """Save what was reached where the block fails, without waiting for other processes: this one may have failed alone.

    A component that calls ``sys.exit`` has failed too.
    """
    try:
        yield
    except Exception as error:
        _save_after(error, save)
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        fault = failure(error)
        _save_after(fault, save)
        raise fault from error


def _save_after(error: Exception, save: Callable[[], None]) -> None:
    """Save, and where that fails too, say so with the error that came first."""
    try:
        save()
    except (GendiffError, OSError) as second:
        if not isinstance(error, GendiffError):
            raise
        error.details = (*error.details, f"no checkpoint could be saved after that: {second}")


@contextmanager
def telling_how_to_go_on(run: Run, trainer: Trainer) -> Iterator[None]:
    """Errors of data, disks and processes say which checkpoint there is and the command that goes on from it."""
    try:
        yield
    except OSError as error:
        if not (run.path / "config.toml").exists():
            raise _vanished(run, trainer) from error
        if error.errno not in disk.FULL and not str(error.filename).startswith(str(run.path)):
            raise  # not of the run's own files
        raise disk.refusal(error, run.path, safe=_safe(run), go_on=_on(run)) from error
    except Stopped:
        raise
    except GendiffError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error, DataError):
            if not (run.path / "config.toml").exists():
                raise _vanished(run, trainer) from error
            error.details = (*error.details, *_safe(run))
            error.fix = ", then ".join(filter(None, ["make room", _on(run)]))
        elif isinstance(error, DataError) and _safe(run):
            error.details = (*error.details, *_safe(run))
            error.fix = way_on(run, trainer.config, error)
        elif isinstance(error, DataProcessDied) and _safe(run):
            error.details = (*error.details, *_safe(run))
            error.fix = f"{_on(run)}; or with fewer processes: {resuming(run, 'train.workers=0')}"
        raise


def way_on(run: Run, config: Config, error: DataError) -> str:
    """How to go on with a run whose data became bad, or are gone."""
    path = getattr(config.data, "path", None)
    if isinstance(path, Path) and not path.expanduser().exists():
        return f"bring '{path}' back, or put a link to it there, then go on: {resuming(run)}"
    if "on_bad_image" in type(config.data).model_fields:
        return (
            f"put it back as it was, then go on: {resuming(run)}; "
            f"or go on without it: {resuming(run, 'data.on_bad_image=skip')}"
        )
    return "; ".join(filter(None, [error.fix, f"once the data are as they were, go on: {resuming(run)}"]))


def _on(run: Run) -> str:
    return f"go on: {resuming(run)}" if _safe(run) else ""


def _safe(run: Run) -> list[str]:
    """The checkpoint that a run would go on from, in one line; none where there is none."""
    steps = checkpoint.steps(run.checkpoints)
    return [f"the checkpoint of step {steps[0]} is safe"] if any(steps) else []


def _vanished(run: Run, trainer: Trainer) -> GendiffError:
    return GendiffError(
        f"the run directory '{run.path}' is gone: it was removed or moved, or its disk was taken away",
        details=[f"it was noticed at step {trainer.step}; nothing was written in its place"],
        fix=f"bring it back, then go on: {resuming(run)}",
    )


def check_disk(path: Path, trainer: Trainer) -> None:
    """Refuse to start where the checkpoints of the whole run at ``path``, which need not exist, cannot fit."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.network.parameters())
    copies = 3 + len(trainer.weights.averages)  # weights, two moments, the averages
    keep, settings = trainer.settings.keep, trainer.settings
    size = weights * copies * (keep + 1)  # one more is staged before the oldest goes
    left = -(-(settings.steps - trainer.step) // settings.snapshot_period)
    size += weights * len(settings.profiles) * left
    reusable = sum(
        file.stat().st_size for file in (path / "checkpoints").rglob("*") if file.is_file()
    )  # a resumed run replaces these
    snapshots = f" and {left} snapshots" if settings.profiles else ""
    free = disk.free(path)
    if free + reusable < size:
        raise GendiffError(
            f"not enough room in '{path}' for the checkpoints",
            details=[f"{size:,} bytes needed for {keep + 1} checkpoints{snapshots}, {free:,} free"],
            fix=f"make room, choose another {option('--out')}, or "
            + (f"keep fewer: {setting('train.keep', 1)}" if keep > 1 else "train a smaller network"),
        )


def changed_data(run: Run, config: Config) -> dict[str, Any]:
    """What has changed in the data since the run began, for its record; empty where nothing has.

    A resumed run must see the data it began with. Only pictures may be missing, and only where ``on_bad_image=skip`` says so.

    Raises `ConfigError` for other data, `DataError` for data that cannot be read, with how to go on.
    """
    before = run.info.get("data", {}).get("fingerprint")
    try:
        now = config.data.fingerprint
    except DataError as error:
        error.fix = way_on(run, config, error)
        raise
    if before is None or before == now:
        refuse_other_conditions(run, config, each=True)
        refuse_other_split(run, config)
        return {}
    details = [f"fingerprint then: {before}", f"fingerprint now:  {now}"]
    if not (roll := run.roll()):
        fix = f"bring them back, then go on: {resuming(run)}; or start a new run"
        raise ConfigError(f"the data of '{run.path}' have changed since it began", details=details, fix=fix)
    difference = absence(roll, config.data.parts)
    if difference.strange:
        names = ", ".join(printable(name) for name in difference.strange[:5])
        more = f" and {len(difference.strange) - 5} more" if len(difference.strange) > 5 else ""
        raise ConfigError(
            f"the data of '{run.path}' have changed since it began",
            details=[*details, f"new, or not as they were: {names}{more}"],
            fix=f"take these away or put them back as they were, then go on: {resuming(run, 'data.on_bad_image=skip')}",
        )
    if getattr(config.data, "on_bad_image", "") != "skip":
        raise ConfigError(
            f"{difference.count} of the pictures that '{run.path}' began with are gone",
            details=details,
            fix=f"put them back, then go on: {resuming(run)}; "
            f"or go on without them: {resuming(run, 'data.on_bad_image=skip')}",
        )
    refuse_other_conditions(run, config, each=False)
    unreadable = [[printable(str(name)), why] for name, why in config.data.skipped]
    return {
        "fingerprint": now,
        "before": before,
        "left_out": difference.count,
        "unreadable": unreadable[:LISTED],
    }


def refuse_other_conditions(run: Run, config: Config, each: bool) -> None:
    """Raise `ConfigError` where data say something else of their events than when the run began.

    Args:
        each: whether what is said of each event is looked at too, and not only what can be said.

    """
    about = run.info.get("data", {})
    tables = about.get("conditions", {})
    if not tables:
        return
    what = f"what the data of '{run.path}' say of their events has changed since it began"
    fix = f"bring it back, then go on: {resuming(run)}; or start a new run"
    for name, table in tables.items():
        then, now = Condition.model_validate(table), config.conditions[name]
        if then != now:
            details = [f"{name} then: {then.words}", f"{name} now:  {now.words}"]
            raise ConfigError(what, details=details, fix=fix)
    before = about.get("conditions_fingerprint")
    if not each or before is None:
        return
    if (after := fingerprint_of(config.data, config.conditions)) != before:
        raise ConfigError(what, details=[f"fingerprint then: {before}", f"fingerprint now:  {after}"], fix=fix)


def refuse_other_split(run: Run, config: Config) -> None:
    """Raise `ConfigError` where other events would be held out of the same data than when the run began."""
    before, held_out = run.info.get("held_out", {}).get("fingerprint"), config.held_out
    after = held_out.fingerprint if held_out else None
    if before != after:
        raise ConfigError(
            f"the held-out events of '{run.path}' are not those that they were",
            details=[f"fingerprint then: {before}", f"fingerprint now:  {after}"],
            fix=f"bring them back as they were, then go on: {resuming(run)}; or start a new run",
        )


def refuse_other_data(run: Run, config: Config) -> None:
    """Raise as `changed_data` does, and also where pictures are left out: what is compared must have seen the same."""
    if change := changed_data(run, config):
        raise ConfigError(
            f"{change['left_out']} of the pictures that '{run.path}' began with are gone or cannot be read",
            details=[f"fingerprint then: {change['before']}", f"fingerprint now:  {change['fingerprint']}"],
            fix="put them back as they were, or compare from the beginning",
        )
