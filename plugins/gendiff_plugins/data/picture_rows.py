"""Picture rows: what the data ``huggingface`` and ``parquet`` have in common, a table with an encoded picture in each row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gendiff.condition import Conditions
from gendiff.datasets.column import Column
from gendiff.datasets.images import ImageData, opened_bytes
from gendiff.errors import DataError, GendiffError


class PictureRows(ImageData):
    """A table with a column of pictures, and columns with what is known of them."""

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < (self.length or 0):
            raise IndexError(f"picture {index} of {self.length}")
        try:
            with opened_bytes(self._encoded(index)) as image:
                return self._event(image)
        except GendiffError:
            raise
        except Exception as error:  # Pillow raises whatever it trips over
            raise self._damaged(index, error) from error

    @property
    def conditions(self) -> Conditions:
        return {name: column.condition for name, column in self._told.items()}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {name: column[index] for name, column in self._told.items()}

    def origin(self, index: int) -> str:
        return f"row {index}"

    @property
    @abstractmethod
    def _told(self) -> Mapping[str, Column]:
        """What is said of every picture, by the name of the condition; empty where nothing is."""

    @abstractmethod
    def _encoded(self, index: int) -> bytes:
        """The file of the picture in a row."""

    @abstractmethod
    def _damaged(self, index: int, error: Exception) -> DataError:
        """What to raise where a row cannot be read."""
