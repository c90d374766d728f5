"""Runs a compiled kernel on torch's own threads.

Numba's thread pool beside torch's makes the two spin against each other on the same cores, several
times slower than one thread. ``GOMP_parallel`` of the OpenMP library that torch has loaded hands
the kernel to the threads that torch's operators use. Where that library is not GNU's (macOS), the
kernel runs on one thread.
"""

import contextlib
import ctypes
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numba import cfunc
from numba.core.caching import FunctionCache

CHUNKS_PER_THREAD = 4
_SLOTS = 32
_Arguments = ctypes.c_int64 * _SLOTS
_SIGNATURE = "void(CPointer(int64))"


@functools.cache
def _parallel() -> Callable[..., None] | None:
    """``GOMP_parallel`` of the library that torch uses, or None."""
    folder = Path(torch.__file__).parent
    candidates = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    if "GOMP" not in torch.__config__.parallel_info() and not candidates:
        candidates = [Path("libgomp.so.1")]
    for path in candidates:
        try:
            # RTLD_NOLOAD: only if torch has loaded it; a second copy would bring its own threads.
            function = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
        return function
    return None


def num_threads() -> int:
    """Threads that a kernel may use: torch's number, or one where its pool cannot be shared."""
    return torch.get_num_threads() if _parallel() is not None else 1


@functools.cache
def _newest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.glob("*.py"))


def _forget_if_outdated(function: Callable) -> None:
    """Drop what is cached of a function made before a file beside its own was changed.

    Numba looks at the function's own file alone, and its code is inlined from several.
    """
    # A part of Numba that is not public: without it, all is as Numba has it.
    with contextlib.suppress(AttributeError, OSError, RuntimeError):
        index = Path(FunctionCache(function)._cache_file._index_path)
        newest = _newest(Path(function.__code__.co_filename).parent)
        if index.stat().st_mtime < newest < time.time():  # a clock may have gone wrong
            index.unlink()


class Kernel:
    """A Numba function of an array of integers (counter, number of chunks, then what it needs).

    Each thread takes the next chunk by :func:`~.simd.fetch_add` on the counter until none is left,
    so the result must not depend on who takes which.

    Args:
        function: Compiled when first called, and cached on disk.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function

    @functools.cached_property
    def _compiled(self) -> tuple[Any, Callable[..., None], object]:
        _forget_if_outdated(self.function)
        code: Any = cfunc(_SIGNATURE, cache=True)(self.function)
        return code.address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address), code

    def __call__(self, chunks: int, threads: int, *values: int) -> ctypes.Array:
        """Run ``chunks`` chunks on ``threads`` threads; ``values`` are integers and addresses."""
        address, serial, _ = self._compiled
        arguments = _Arguments(0, chunks, *values)
        parallel = _parallel()
        if threads > 1 and parallel is not None:
            parallel(address, arguments, threads, 0)
        else:
            serial(arguments)
        return arguments
