"""Memory that the text and the numbers of records are read into, used again for the next files.

New memory is given out by the kernel page by page, each filled with zeros first: of a study of a gigabyte that takes
longer than reading and parsing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from paceline.bench.errors import RecordError

_TEXT_BYTES = 2 * 1024 * 1024
_NUMBERS = 256 * 1024


class ReadRoom:
    """Room for one batch of files at a time. What it handed out holds until ``clear``."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._text_used = 0
        self._numbers: npt.NDArray[np.float64] = np.empty(0)
        self._numbers_used = 0

    def clear(self) -> None:
        """Take back everything: the next batch is written over it."""
        self._text_used = self._numbers_used = 0

    def text(self, path: Path) -> tuple[bytearray, int, int]:
        """Return a buffer and where in it the file lies (first, last excluded); RecordError if it cannot be read."""
        try:
            with open(path, "rb", buffering=0) as stream:
                size = os.fstat(stream.fileno()).st_size
                if len(self._text) - self._text_used < size:  # what lies in the old one is kept by who uses it
                    self._text, self._text_used = bytearray(max(_TEXT_BYTES, 2 * size)), 0
                first = stop = self._text_used
                with memoryview(self._text) as view:
                    while stop < first + size:
                        length = stream.readinto(view[stop : first + size])
                        if not length:  # the file has become shorter
                            break
                        stop += length
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
        self._text_used = stop
        return self._text, first, stop

    def numbers(self, width: int, count: int) -> npt.NDArray[np.float64]:
        """Return an array of shape (width, count), its values undefined."""
        size = width * count
        if self._numbers.size - self._numbers_used < size:
            self._numbers, self._numbers_used = np.empty(max(_NUMBERS, 2 * size)), 0
        first = self._numbers_used
        self._numbers_used += size
        return self._numbers[first : first + size].reshape(width, count)
