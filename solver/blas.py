"""One BLAS thread while the solver runs: it brings its own threads, and OpenBLAS's spin when cores are busy.

OpenBLAS keeps one number of threads per process. It is set back when the last solve in the process ends;
with another BLAS, or none found, nothing is done.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
_running = 0
_before: list[int] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it the OpenBLAS libraries of NumPy and SciPy use one thread."""
    global _running, _before
    controls = _controls()
    with _lock:
        if not _running:
            _before = [get() for get, _ in controls]
            for _, set_ in controls:
                set_(1)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                for (_, set_), count in zip(controls, _before, strict=True):
                    set_(count)


@cache
def _controls() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    found = []
    for package in ("numpy", "scipy"):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent
        for library in sorted((folder.parent / f"{package}.libs").glob("*openblas*")):
            try:
                loaded = ctypes.CDLL(str(library))
            except OSError:
                continue
            for suffix in ("64_", ""):
                get = getattr(loaded, f"scipy_openblas_get_num_threads{suffix}", None)
                set_ = getattr(loaded, f"scipy_openblas_set_num_threads{suffix}", None)
                if get is not None and set_ is not None:
                    found.append((get, set_))
                    break
    return found
