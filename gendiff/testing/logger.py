"""What a logger promises: an observer that lives through a whole run."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gendiff.datasets.pictures import sheet
from gendiff.errors import ConfigError
from gendiff.logger import Logger
from gendiff.plugin.hookspecs import LIFECYCLE
from gendiff.plugin.observers import Observers
from gendiff.testing.card import check, require


@check("logger", "it says clearly when it cannot work", "`ready()`: raise ConfigError with what to install")
def ready(logger: Logger) -> str:
    """A missing library is a configuration error, before a run is made."""
    try:
        logger.ready()
    except ConfigError as error:
        require(bool(error.fix), "an error that says how to fix it", str(error))
        return f"not available here: {error.what}"
    return "available"


@check("logger", "its observer lives through a whole run", "the `@hookimpl` methods of what `observer(run)` returns")
def whole_run(logger: Logger) -> str:
    """All hooks, two samples, one end; nothing on stdout, which is for results."""
    logger = logger.rehearsal()
    try:
        logger.ready()
    except ConfigError as error:
        return f"not tried: {error.what}"
    failures: list[str] = []
    output = io.StringIO()
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(output):
        run = Path(folder) / "00001-check"
        run.mkdir()
        (run / "run.json").write_text('{"id": "check"}', encoding="utf-8")
        (run / "config.toml").write_text("N = 10\n", encoding="utf-8")
        observers = Observers(complain=lambda name, why: failures.append(why))
        observers.make(logger.name, lambda: logger.observer(run))
        hooks = sum(bool(getattr(observers._manager.hook, hook).get_hookimpls()) for hook in LIFECYCLE)
        picture = run / "samples.png"
        events = torch.zeros(4, 1, 8, 8)
        sheet(events).save(picture)
        observers.notify("gendiff_run_started", run=run, config={"N": 10, "train": {"lr": 1e-3}}, step=0)
        for step in (1, 2):
            observers.notify("gendiff_step", run=run, step=step, loss=1.0 / step, images_per_s=100.0)
            observers.notify("gendiff_metrics_ready", run=run, step=step, values={"loss": 1.0, "loss_bands.0": 0.5})
            observers.notify("gendiff_samples_ready", run=run, step=step, events=events, picture=picture)
            observers.notify("gendiff_checkpoint_saved", run=run, step=step, checkpoint=run / "checkpoints")
        observers.notify("gendiff_run_ended", run=run, step=2, status="done")
    require(not failures, "no error", "; ".join(failures))
    require(hooks > 0, "an observer with at least one hook", "none")
    require(not output.getvalue(), "nothing on stdout", repr(output.getvalue()[:60]))
    return f"hears {hooks} of {len(LIFECYCLE)} hooks"
