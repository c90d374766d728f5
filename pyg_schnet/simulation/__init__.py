"""Models applied to structures from elsewhere: predictions, ASE, molecular dynamics.

What needs ASE at import is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import pyg_schnet._pyg  # noqa: F401
from pyg_schnet.simulation.hessians import hessian, hessian_by_differences
from pyg_schnet.simulation.predict import (
    atoms_to_data,
    predict_file,
    predict_structures,
    read_file,
)
from pyg_schnet.simulation.properties import families, load_family, predict_properties

# Not later: functions with the names of their files, which an import would put in their place.
from pyg_schnet.simulation.relax import Relaxation, relax, relax_file
from pyg_schnet.simulation.vibrations import Vibrations, normal_modes, vibrations, vibrations_file

if TYPE_CHECKING:
    from pyg_schnet.simulation.calculator import Calculator
    from pyg_schnet.simulation.dynamics import DynamicsSummary, run_md
    from pyg_schnet.simulation.integrator import Integrator
    from pyg_schnet.simulation.loops import ClosedLoop, closed_loop
    from pyg_schnet.simulation.pimd import PathIntegralSummary, run_pimd
    from pyg_schnet.simulation.replicas import prepare_replicas
    from pyg_schnet.simulation.screening import screen
    from pyg_schnet.simulation.stability import Drift, nve_drift
    from pyg_schnet.simulation.torch_sim_adapter import torch_sim_model

_LATER = {
    "Calculator": "calculator",
    "ClosedLoop": "loops",
    "Drift": "stability",
    "DynamicsSummary": "dynamics",
    "Integrator": "integrator",
    "PathIntegralSummary": "pimd",
    "attach_to_lammps": "lammps",
    "closed_loop": "loops",
    "nve_drift": "stability",
    "prepare_replicas": "replicas",
    "run_md": "dynamics",
    "run_pimd": "pimd",
    "screen": "screening",
    "torch_sim_model": "torch_sim_adapter",
}

__all__ = [
    "Calculator",
    "ClosedLoop",
    "Drift",
    "DynamicsSummary",
    "Integrator",
    "PathIntegralSummary",
    "Relaxation",
    "Vibrations",
    "atoms_to_data",
    "attach_to_lammps",
    "closed_loop",
    "families",
    "hessian",
    "hessian_by_differences",
    "load_family",
    "normal_modes",
    "nve_drift",
    "predict_file",
    "predict_properties",
    "predict_structures",
    "prepare_replicas",
    "read_file",
    "relax",
    "relax_file",
    "run_md",
    "run_pimd",
    "screen",
    "torch_sim_model",
    "vibrations",
    "vibrations_file",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
