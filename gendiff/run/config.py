"""Configuration: one frozen tree of settings, with what is learned from the data.

A run is described by a `Config`. Its components resolve by name through the registry, so the parameters of a third-party
plugin are part of it like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import tomli_w
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor

from gendiff.component import Settings, by_name
from gendiff.condition import Conditions, chosen
from gendiff.data import Data
from gendiff.datasets.split import HoldOut, Split
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.model import Model
from gendiff.moments import Moments
from gendiff.objective import Objective
from gendiff.rotation import Rotation
from gendiff.run.settings import TrainSettings
from gendiff.sampler import Sampler
from gendiff.scales import common
from gendiff.shapes import MOST_STEPS, EventShape
from gendiff.velocity import Velocity


class Config(Settings):
    """Everything that defines a run."""

    N: int = Field(1000, ge=2, le=MOST_STEPS, description="steps of the diffusion; schedules are per step")
    rotation: Rotation = by_name("identity", "coordinate system U")
    velocity: Velocity = by_name("blur", "speed of each component")
    objective: Objective = by_name("wiener", "what the network predicts")
    model: Model = by_name("unet", "network")
    data: Data = by_name("digits", "source of events")
    condition: tuple[str, ...] = Field(
        (), description="what the network is told of events besides, by the names of the data"
    )
    hold_out: HoldOut | None = Field(None, description="events that nothing is trained on; left out, there are none")
    sampler: Sampler = by_name("trig:solver=ab2,steps=50", "how samples are drawn")
    train: TrainSettings = Field(default_factory=TrainSettings, description="how the run trains")

    @field_validator("condition", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    _moments: Moments | None = PrivateAttr(None)
    _basis: Rotation | None = PrivateAttr(None)
    _diffusion: Diffusion | None = PrivateAttr(None)
    _split: Split | None = PrivateAttr(None)
    _below: int | None = PrivateAttr(None)

    @property
    def split(self) -> Split:
        """Which events are trained on, and which are held out; raises as `Split.of` does."""
        if self._split is None:
            self._split = Split.of(self.data, self.hold_out, self._below, self.condition)
        return self._split

    @property
    def training(self) -> Data:
        """What is trained on, and measured for training: the data, without what is held out."""
        return self.split.training

    @property
    def held_out(self) -> Data | None:
        """What nothing is trained on; None where nothing is held out."""
        return self.split.held_out

    @property
    def conditions(self) -> Conditions:
        """What the network is told of events besides, by name; raises `ConfigError` for a name that the data do not have."""
        return chosen(self.data.conditions, self.condition, f"data '{self.data.name}'") if self.condition else {}

    def splitting_at(self, below: int | None) -> Config:
        """This configuration with the bound that a run has split its data at (`gendiff.datasets.split`)."""
        config = self.model_copy()
        config._below, config._split = below, None
        return config

    def filled(self, processes: int = 1, say: bool = True) -> Config:
        """This configuration with a batch that its data fill: of all of them where it was larger, which a warning may say.

        Raises `ConfigError` where there are fewer events than processes that share a batch.
        """
        batch, length = self.train.batch, self.training.length
        if length is None or batch <= length or length < 1:
            return self
        size = length - length % processes
        if size < 1:
            raise ConfigError(
                f"{length} events cannot be shared by {processes} processes",
                fix=f"start at most {length}",
                subject="train.batch",
            )
        if say:
            share = "all of them" if size == length else f"{size:,} of them, a multiple of {processes} processes"
            warnings.warn(
                f"the batch of {batch:,} is larger than the {length:,} events that there are: each step takes {share}",
                stacklevel=2,
            )
        return self.model_copy(update={"train": self.train.model_copy(update={"batch": size})})

    def fitted(self, measured: bool = True) -> Config:
        """This configuration with all that is learned from the data of the run: U, m and c in its coordinates, the velocity.

        Unless ``measured``, m = 0 and c = 1 are assumed, which takes no time and is enough for who asks for a and s alone.
        """
        if self._moments is not None:
            return self
        rotation, velocity = self.rotation, self.velocity
        rotation.require(self.data.event_shape)
        self.data.require()
        data = self.training
        if not rotation.has_learned and (learned := rotation.fit(data)):
            rotation = rotation.with_learned(learned)
        if not velocity.has_learned and (learned := velocity.fit(data, rotation)):
            velocity = velocity.with_learned(learned)
        basis = self.basis_of(rotation, velocity, data.event_shape)
        moments = Moments.fit(data, basis) if measured else Moments.standard(data.event_shape)
        return self.holding(rotation, velocity, moments, basis)

    def basis_of(self, rotation: Rotation, velocity: Velocity, event_shape: EventShape) -> Rotation:
        """In whose coordinates m and c of the data are taken: those of U, or the DCT where U is of no consequence.

        Where all components are scaled alike, a process is itself in any basis, and U no more than a name: what the network and
        the sampler assume of the data must not depend on it. `objective.basis` may ask for U all the same.
        """
        if self.objective.basis == "process" or rotation.name == "dct" or velocity.trained:
            return rotation
        if not velocity.scales(rotation, event_shape, self.N).alike:
            return rotation
        rotation.check(event_shape)  # it would not be met again
        return Rotation("dct")

    @property
    def basis(self) -> Rotation:
        """In whose coordinates m and c of the data are taken; reads the data where this is not fitted to them."""
        fitted = self.fitted()
        return fitted._basis or fitted.rotation

    def holding(
        self, rotation: Rotation, velocity: Velocity, moments: Moments, basis: Rotation | None = None
    ) -> Config:
        """This configuration with what was learned from data before, the moments in ``basis``; left out, that of U."""
        config = self.model_copy(update={"rotation": rotation, "velocity": velocity})
        config._moments, config._basis, config._diffusion = moments, basis or rotation, None
        return config

    def velocity_of(self, velocity: Velocity) -> Config:
        """This configuration with another velocity, in the same basis and with the same moments."""
        config = self.fitted()
        assert config._moments is not None
        return config.holding(config.rotation, velocity, config._moments, config._basis)

    def with_trained(self, learned: Mapping[str, Tensor]) -> Config:
        """This configuration with other values of what its velocity learns with the network (`Velocity.trained`)."""
        velocity = self.fitted().velocity
        return self.velocity_of(velocity.with_learned({**velocity.learned, **learned}))

    def diffusion(self) -> Diffusion:
        """The process of this run, built and checked once; reads the data where it is not fitted to them."""
        config = self.fitted()
        if config._diffusion is None:
            rotation, basis, shape = config.rotation, config._basis, self.data.event_shape
            if basis is None or basis is rotation:
                config._diffusion = Diffusion.of(rotation, config.velocity, shape, self.N, config._moments)
            else:
                scales = common(config.velocity.scales(rotation, shape, self.N), shape)
                config._diffusion = Diffusion(basis, scales, shape, config._moments)
        return config._diffusion

    def toml(self) -> str:
        """This configuration as TOML, every value written out."""
        return tomli_w.dumps(self.table())
