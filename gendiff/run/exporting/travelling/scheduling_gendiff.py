r"""A sampler of a generalized diffusion in numbers: what comes out of step k follows from tables alone.

    x̄_j = constant + p x̄_i + q x̂_0 + b ε̂ + Σ_l (q_l x̂_0 + b_l ε̂)_(l evaluations ago) + e z

elementwise in rotated coordinates x̄ = U^T x; k counts evaluations of the network, from the prior to the data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, TABLES = "scheduler_config.json", "tables.safetensors"


class GendiffScheduler:
    """The tables of one sampler of one process.

    Args:
        config: ``parametrization`` of the network, ``clip`` (a range, or None), ``event_shape``, ``N``, ``sampler``.
        tables: float32, each ``(K, *diagonal)`` with an entry for each evaluation, and the basis.

    """

    def __init__(self, config: dict[str, Any], tables: dict[str, Tensor]) -> None:
        self.config = config
        self.tables = tables
        self.steps: list[float] = tables["i"].tolist()
        self.beliefs: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def from_pretrained(cls, folder: str, **_: Any) -> Self:
        """The scheduler of a folder."""
        return cls(json.loads((Path(folder) / CONFIG).read_text()), load_file(Path(folder) / TABLES))

    def save_pretrained(self, folder: str, **_: Any) -> None:
        """Write the same folder again."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONFIG).write_text(json.dumps(self.config, indent=1))
        save_file(self.tables, Path(folder) / TABLES)

    def to(self, device: torch.device) -> None:
        """Move the tables."""
        self.tables = {name: table.to(device) for name, table in self.tables.items()}

    def rotate(self, x: Tensor) -> Tensor:
        """``x̄ = U^T x``."""
        return self._applied(x, transposed=False)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        """``x = U x̄``."""
        return self._applied(x_bar, transposed=True)

    def prior(self, z: Tensor) -> Tensor:
        """``x̄_N`` of event-space noise ``z`` ~ N(0, I); begins a chain."""
        self.beliefs = []
        return self.tables["prior.mean"] + self.tables["prior.std"] * self.rotate(z)

    def scale_model_input(self, x_bar: Tensor, k: int) -> Tensor:
        """What the network sees, in event space."""
        if self.config["parametrization"] == "wiener":
            x_bar = self._normalized(x_bar, k)
        elif "sees.x" in self.tables:
            x_bar = self._affine("sees", k, torch.zeros_like(x_bar), x_bar)
        return self.unrotate(x_bar)

    def draws(self, k: int) -> bool:
        """Whether step k takes fresh noise."""
        return bool(self.tables["draws"][k])

    def step(self, output: Tensor, k: int, x_bar: Tensor, z: Tensor | None = None) -> Tensor:
        """``x̄_j`` for what the network says at evaluation ``k`` of ``x̄_i``; ``z`` is event-space noise, where it is drawn."""
        x_0, eps = self._decoded(self.rotate(output.to(x_bar.dtype)), k, x_bar)
        if self.config["clip"] is not None:
            x_0 = self.rotate(self.unrotate(x_0).clamp(*self.config["clip"]))
            eps = (x_bar - self._at("a", k) * x_0) / self._at("s", k)
        self.beliefs = [(x_0, eps), *self.beliefs[: self.config["memory"]]]
        total = torch.zeros_like(x_bar)
        terms = [("constant", torch.ones_like(x_bar)), ("p", x_bar)]
        if z is not None and self.draws(k):
            terms.append(("e", self.rotate(z)))
        for ago, belief in enumerate(self.beliefs):
            terms += [(f"q.{ago}", belief[0]), (f"b.{ago}", belief[1])]
        for name, value in terms:
            if name in self.tables:
                total = total + self._at(name, k) * value
        return total

    def _at(self, name: str, k: int) -> Tensor:
        return self.tables[name][k]

    def _affine(self, view: str, k: int, output: Tensor, x_bar: Tensor) -> Tensor:
        of_output, of_x, rest = (self._at(f"{view}.{part}", k) for part in ("out", "x", "1"))
        return of_output * output + of_x * x_bar + rest

    def _normalized(self, x_bar: Tensor, k: int) -> Tensor:
        a, s, m, c = (self._at("a", k), self._at("s", k), self.tables["m"], self.tables["c"])
        return (x_bar - a * m) / (a**2 * c + s**2).sqrt()

    def _decoded(self, output: Tensor, k: int, x_bar: Tensor) -> tuple[Tensor, Tensor]:
        """``(x̂_0, ε̂)`` that the output stands for; components of which nothing is left (``prior``) are the mean m."""
        if "x_0.out" in self.tables:  # of a view of which there are tables
            return self._affine("x_0", k, output, x_bar), self._affine("eps", k, output, x_bar)
        a, s, m, c = (self._at("a", k), self._at("s", k), self.tables["m"], self.tables["c"])
        match self.config["parametrization"]:
            case "x0":
                return output, (x_bar - a * output) / s
            case "v":
                norm = a**2 + s**2
                return (a * x_bar - s * output) / norm, (s * x_bar + a * output) / norm
            case "wiener":
                y, v = self._normalized(x_bar, k), a**2 * c + s**2
                cos, sin = a * (c / v).sqrt(), s / v.sqrt()
                return m + c.sqrt() * (cos * y + sin * output), sin * y - cos * output
            case "residual":
                before, prior = self._at("before.a", k), self._at("before.prior", k).bool()
                x_0 = torch.where(prior, m, (x_bar + output) / torch.where(prior, 1.0, before))
                return x_0, ((before - a) * x_0 - output) / s
            case "score":
                output = -s * output
            case "std":
                output = output / s
        prior = self._at("prior", k).bool()
        x_0 = torch.where(prior, m, (x_bar - s * output) / torch.where(prior, 1.0, a))
        return x_0, torch.where(prior, (x_bar - a * m) / s, output)

    def _applied(self, x: Tensor, transposed: bool) -> Tensor:
        if "channels" in self.tables:
            V = self.tables["channels"]
            x = ((V if transposed else V.T) @ x.flatten(2)).reshape(x.shape)
        if "dense" in self.tables:
            U = self.tables["dense"]
            return (x.flatten(2) @ (U.T if transposed else U)).reshape(x.shape)
        for axis in range(x.ndim - 2):
            if (matrix := self.tables.get(f"axis.{axis}")) is not None:
                x = (x.movedim(axis + 2, -1) @ (matrix.T if transposed else matrix)).movedim(-1, axis + 2)
        return x
