"""Memory that the text and the numbers of records are read into, used again for the next files.

New memory is given out by the kernel page by page, each filled with zeros first: of a study of a gigabyte that takes
longer than reading and parsing it.
"""

from __future__ import annotations

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
        self._text_used = self._text_wanted = 0
        self._numbers: npt.NDArray[np.float64] = np.empty(0)
        self._numbers_used = self._numbers_wanted = 0

    def clear(self) -> None:
        """Take back everything: the next batch is written over it, and has room for as much as this one had."""
        if self._text_wanted > len(self._text):
            self._text = bytearray(self._text_wanted * 5 // 4)
        if self._numbers_wanted > self._numbers.size:
            self._numbers = np.empty(self._numbers_wanted * 5 // 4)
        self._text_used = self._text_wanted = self._numbers_used = self._numbers_wanted = 0

    def text(self, path: Path) -> tuple[bytearray, int, int]:
        """Return a buffer and where in it the file lies (first, last excluded); RecordError if it cannot be read."""
        first = stop = self._text_used
        try:
            # Few calls to the system: after each, a thread waits until it gets the interpreter's lock again.
            with open(path, "rb", buffering=0) as stream:
                while True:
                    if stop == len(self._text):  # what lies in the old buffer is kept by who uses it
                        begun = self._text[first:stop]
                        self._text = begun + bytearray(max(_TEXT_BYTES, 2 * len(begun)))
                        first, stop = 0, len(begun)
                    with memoryview(self._text) as view:
                        length = stream.readinto(view[stop:])
                    stop += length or 0
                    if stop < len(self._text):  # a file on disk that fills less than it may has ended
                        break
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
        self._text_used = stop
        self._text_wanted += stop - first + 1
        return self._text, first, stop

    def numbers(self, width: int, count: int) -> npt.NDArray[np.float64]:
        """Return an array of shape (width, count), its values undefined."""
        size = width * count
        self._numbers_wanted += size
        if self._numbers.size - self._numbers_used < size:
            self._numbers, self._numbers_used = np.empty(max(_NUMBERS, 2 * size)), 0
        first = self._numbers_used
        self._numbers_used += size
        return self._numbers[first : first + size].reshape(width, count)
