"""Results: the console of stdout."""

from __future__ import annotations

import os

from rich.console import Console, ConsoleDimensions


class Results(Console):
    """The console of stdout, which is not at descriptor 1 (`gendiff_cli.descriptors`), where rich looks for its width."""

    @property
    def size(self) -> ConsoleDimensions:
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except (AttributeError, OSError, ValueError):  # no terminal, and perhaps no file
            columns = lines = 0
        if self._width is not None or self.is_dumb_terminal or not columns or not lines:
            return super().size
        return ConsoleDimensions(columns, lines)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self.width, self.height = new
