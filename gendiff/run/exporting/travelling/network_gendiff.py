"""The network of a run as a program of torch: a graph and its weights, which need no class of anybody's."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile
from typing import Any, Self

import torch
from torch import Tensor, nn

PROGRAM = "network.pt2"


class GendiffNetwork(nn.Module):
    """Maps ``x`` ``(B, C, *spatial)``, float steps ``i`` ``(B,)`` and what it is told to ``(B, C, *spatial)``."""

    def __init__(self, program: nn.Module, file: Path) -> None:
        super().__init__()
        self.program = program
        self.file = file

    @classmethod
    def from_pretrained(cls, folder: str, **_: Any) -> Self:
        """The network of a folder; raises what torch raises of a program that it cannot read."""
        file = Path(folder).absolute() / PROGRAM
        program = torch.export.load(str(file))
        return cls(
            program.module(check_guards=False), file
        )  # those of torch 2.9 fail where a network is told something

    def save_pretrained(self, folder: str, **_: Any) -> None:
        """Copy the program to another folder, as it was read."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        copyfile(self.file, Path(folder) / PROGRAM)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.program.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.program.parameters()).dtype

    def train(self, mode: bool = True) -> Self:
        """The program answers as in evaluation, always."""
        return self

    def forward(self, x: Tensor, i: Tensor, *told: Tensor) -> Tensor:
        """The output for ``x`` at steps ``i``."""
        output: Tensor = self.program(x, i, *told)
        return output
