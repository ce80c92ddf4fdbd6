"""Loads numba, the extra ``fast``, which compiles what large files need."""

from __future__ import annotations

import importlib
import importlib.util
import sys


def available() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def load_numba() -> None:
    """Load numba without the BLAS of scipy, for which it loads all of scipy.linalg: half a second for nothing here.

    ImportError if numba is not installed.
    """
    name = "scipy.linalg"
    if name in sys.modules or "numba.np.arraymath" in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]  # makes importing it an ImportError, which numba expects
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[name]
