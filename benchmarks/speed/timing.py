"""Medians of alternating calls, and the memory that a call adds."""

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of ours and of theirs, and how many times faster ours is.

    Attributes:
        ours: Median.
        theirs: Median.
        ratio: Median of theirs over median of ours.
        low: First quartile of the ratios of neighbouring calls.
        high: Third quartile.
    """

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    seconds: float = 4.0,
    least: int = 7,
) -> Comparison:
    """Call both in turn for about ``seconds``, so that a busy machine disturbs both alike.

    Each turn begins with a call that is not timed: a model is not to pay for the caches that the
    other one has emptied. The faster one is called several times in each turn, as long as the
    slower one takes at most.
    """
    for call in (ours, theirs, ours, theirs):
        call()
    first, second = _once(ours), _once(theirs)
    repeat = max(3, min(20, round(second / max(first, 1e-6))))
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < least:
        for call, record, count in ((ours, times[0], repeat), (theirs, times[1], 2)):
            call()
            record.append(statistics.median(_once(call) for _ in range(count)))
    a, b = statistics.median(times[0]), statistics.median(times[1])
    ratios = sorted(y / x for x, y in zip(*times, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    return Comparison(1e3 * a, 1e3 * b, b / a, low, high)


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def added_memory(call: Callable[[], object]) -> float | None:
    """MiB that the process grows by at most during a first call; None where that is not told."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        # Freed memory that the process still holds would hide what the call takes of it.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        call()
        return (_resident("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return None


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])
