"""Looking at runs and models: figures. Needs matplotlib (the extra ``[train]``)."""

from pyg_schnet.analysis.calibration import calibration_curve, plot_calibration
from pyg_schnet.analysis.dynamics_figures import plot_dynamics
from pyg_schnet.analysis.figures import plot_run, read_log
from pyg_schnet.analysis.spectra import lorentzian_spectrum, plot_frequencies

__all__ = [
    "calibration_curve",
    "lorentzian_spectrum",
    "plot_calibration",
    "plot_dynamics",
    "plot_frequencies",
    "plot_run",
    "read_log",
]
