"""What every record of this folder says of the machine, and how it is written."""

import json
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch


def facts() -> dict[str, Any]:
    """The machine, its load, and the threads that are used."""
    return {
        "device": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def peak_memory() -> float:
    """Largest resident memory of this process so far, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def memory(name: str = "VmRSS") -> float:
    """A line of the kernel's account of this process, MiB: VmRSS, RssAnon, RssFile."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(name))
    return round(int(line.split()[1]) / 1024, 1)


def write(path: str | Path, record: dict[str, Any]) -> None:
    """Write as JSON, and say so."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {path}")
