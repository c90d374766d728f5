"""Models applied to structures from elsewhere: predictions, ASE, molecular dynamics.

What needs ASE at import is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.simulation.predict import atoms_to_data, predict_file

# Not later: the function has the name of its file, which an import would put in its place.
from pyg_schnet.simulation.relax import Relaxation, relax, relax_file

if TYPE_CHECKING:
    from pyg_schnet.simulation.calculator import Calculator
    from pyg_schnet.simulation.dynamics import DynamicsSummary, run_md
    from pyg_schnet.simulation.loops import ClosedLoop, closed_loop
    from pyg_schnet.simulation.stability import Drift, nve_drift

_LATER = {
    "Calculator": "calculator",
    "ClosedLoop": "loops",
    "Drift": "stability",
    "DynamicsSummary": "dynamics",
    "closed_loop": "loops",
    "nve_drift": "stability",
    "run_md": "dynamics",
}

__all__ = [
    "Calculator",
    "ClosedLoop",
    "Drift",
    "DynamicsSummary",
    "Relaxation",
    "atoms_to_data",
    "closed_loop",
    "nve_drift",
    "predict_file",
    "relax",
    "relax_file",
    "run_md",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
