"""Models applied to structures from elsewhere: predictions, ASE, molecular dynamics.

What needs ASE at import is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.simulation.predict import atoms_to_data, predict_file

if TYPE_CHECKING:
    from pyg_schnet.simulation.calculator import Calculator
    from pyg_schnet.simulation.loops import ClosedLoop, closed_loop
    from pyg_schnet.simulation.stability import Drift, nve_drift

_LATER = {
    "Calculator": "calculator",
    "ClosedLoop": "loops",
    "Drift": "stability",
    "closed_loop": "loops",
    "nve_drift": "stability",
}

__all__ = [
    "Calculator",
    "ClosedLoop",
    "Drift",
    "atoms_to_data",
    "closed_loop",
    "nve_drift",
    "predict_file",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
