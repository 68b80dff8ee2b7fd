"""Settings: how a run trains."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gendiff.component import Settings, by_name
from gendiff.levels import Levels
from gendiff.logger import Logger
from gendiff.metric import Metric
from gendiff.sampler import Sampler

Share = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=1e-3, le=0.28)]


SNAPSHOTS = 32  # of the averages of a run, of which others are made


class SpeedSettings(Settings):
    """How speeds that are learned follow the network (`gendiff.speeds`); of no effect on those that are fixed."""

    loss: Literal["bound", "trajectory"] = Field(
        "bound", description="bound: of the likelihood; trajectory: the error of a sampler of few steps"
    )
    lr: float = Field(0.01, gt=0, description="learning rate of Adam for them")
    every: int = Field(4, ge=1, description="optimiser steps of the network for each of theirs")
    until: float = Field(
        0.5,
        ge=0,
        le=1,
        description="part of the run in which they move; after it the network learns with speeds at rest",
    )
    events: int = Field(16, ge=1, description="events of a batch, at most, on which a step of theirs is taken")
    sampler: Sampler = by_name("trig:steps=10", "of trajectory: the sampler whose error it is")
    finer: int = Field(4, ge=2, description="of trajectory: how many times as many steps count as exact")

    @property
    def words(self) -> str:
        """By what they are learned, and how long."""
        by = "the bound" if self.loss == "bound" else f"the trajectory of {self.sampler.spec}"
        return f"learned by {by}, every {self.every} steps, lr {self.lr:g}, in the first {self.until:.0%} of the run"


class TrainSettings(Settings):
    """How a run trains."""

    steps: int = Field(2000, ge=1, description="optimiser steps")
    batch: int = Field(64, ge=1, description="events per optimiser step, over all processes")
    levels: Levels | None = Field(
        None, description="law by which noise levels are drawn; left out: uniform, every step alike"
    )
    speeds: SpeedSettings = Field(
        default_factory=SpeedSettings, description="how a velocity that is learned follows the network"
    )
    continuous: bool = Field(
        False, description="draw steps as real numbers in [1, N]: the network learns every moment, not N of them"
    )
    accumulate: int = Field(
        1, ge=1, description="parts of a batch that are computed one after the other: less memory, the same step"
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adamw: Adam with decoupled weight decay")
    lr: float = Field(1e-3, gt=0, description="learning rate, at its highest")
    warmup: int = Field(100, ge=0, description="steps over which the learning rate rises linearly from 0")
    decay: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate goes on after that, to lr_end in the last step"
    )
    lr_end: float = Field(0.0, ge=0, description="learning rate in the last step, where it decays")
    condition_dropout: Share = Field(
        0.1,
        description="chance that an event is trained on without its conditions, which guidance needs; of no other effect",
    )
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="decays of the two moments of Adam")
    weight_decay: float = Field(
        0.0, ge=0, description="of adamw: what matrices and convolutions lose in a step, in units of the learning rate"
    )
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 never clips")
    ema: Share | tuple[Share, ...] = Field(
        0.999, description="decay of the averaged weights, or several, of which the first are sampled; 0 keeps none"
    )
    posthoc: tuple[Width, ...] = Field(
        (),
        description="relative widths of averages that are kept over time, of which others are made later: [0.05, 0.1]",
    )
    snapshot_every: int | None = Field(
        None, ge=1, description="steps between snapshots of these; left out: 32 in the whole run"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="arithmetic of the network, all else stays float32; auto: bf16 on a GPU that has it, else fp32",
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="torch.compile; auto: on a GPU, after the first picture of a run that goes on for ten minutes, "
        "and kept where steps are seen to be faster",
    )
    recompute: bool = Field(
        False, description="compute activations a second time for the gradient: much less memory, a third more work"
    )
    shard: bool = Field(
        False, description="each of several processes holds a part of the network (FSDP2): for one that does not fit"
    )
    capture: Literal["auto"] | bool = Field(
        "auto",
        description="on a GPU, record the whole step as one CUDA graph; auto: where that can be done; true: or refuse",
    )
    deterministic: bool = Field(
        False, description="repeat to the bit on a GPU too, where runs otherwise repeat to rounding; slower"
    )
    seed: int = Field(0, ge=0, description="everything random in the run follows from it")
    workers: int | None = Field(None, ge=0, description="data processes; left out: 0 on a CPU, up to 8 on a GPU")
    log_every: int = Field(50, ge=1, description="steps between rows of metrics.jsonl")
    sample_every: int = Field(1000, ge=0, description="steps between sample grids; 0 draws none")
    checkpoint_every: int = Field(
        1000, ge=1, description="steps between checkpoints; there is one before each sample grid too"
    )
    preview: Sampler = by_name("trig:solver=ab2,steps=50", "sampler of these grids")
    preview_images: int = Field(16, ge=1, description="images in a grid, and what metrics measure")
    metrics: tuple[Metric, ...] = Field((), description="what is measured on the images of each grid")
    loggers: tuple[Logger, ...] = Field((), description="who watches the run, besides metrics.jsonl")
    keep: int = Field(2, ge=1, description="how many checkpoints to keep")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(f"weight_decay = {self.weight_decay:g} is of optimizer=adamw, and this is adam")
        if isinstance(self.ema, tuple) and (not all(self.ema) or len(set(self.ema)) < len(self.ema)):
            raise ValueError(f"ema = {list(self.ema)}: several decays differ, and none is 0")
        if len(self.posthoc) == 1 or len(set(self.posthoc)) < len(self.posthoc):
            raise ValueError(
                f"posthoc = {list(self.posthoc)}: of two widths or more, all different, others can be made"
            )
        if self.decay != "constant" and self.lr_end > self.lr:
            raise ValueError(f"lr_end = {self.lr_end:g} is above lr = {self.lr:g}")
        return self

    @property
    def averages(self) -> dict[str, float]:
        """The decay of each average of the weights, the one that is sampled first, by its name in a checkpoint."""
        if isinstance(self.ema, tuple):
            return {f"ema-{decay!r}": decay for decay in self.ema}
        return {"ema": self.ema} if self.ema else {}

    @property
    def profiles(self) -> dict[str, float]:
        """The relative width of each average of which snapshots are kept, by its name in a checkpoint and a snapshot."""
        return {f"posthoc-{width!r}": width for width in self.posthoc}

    @property
    def averaging(self) -> str:
        """Decays and widths in a few words, such as ``EMA 0.999, 0.9999, post-hoc 0.05, 0.1``."""
        parts = [f"EMA {', '.join(f'{decay:g}' for decay in self.averages.values()) or 0}"]
        parts += [f"post-hoc {', '.join(f'{width:g}' for width in self.posthoc)}"] if self.posthoc else []
        return ", ".join(parts)

    @property
    def snapshot_period(self) -> int:
        """Steps between snapshots."""
        return self.snapshot_every or -(-self.steps // SNAPSHOTS)

    @property
    def optimization(self) -> str:
        """Optimiser and rate in a few words, such as ``AdamW 0.001, weight decay 0.01, cosine to 0``."""
        parts = [f"{'AdamW' if self.optimizer == 'adamw' else 'Adam'} {self.lr:g}"]
        parts += [f"weight decay {self.weight_decay:g}"] if self.weight_decay else []
        parts += [f"{self.decay} to {self.lr_end:g}"] if self.decay != "constant" else []
        return ", ".join(parts)
