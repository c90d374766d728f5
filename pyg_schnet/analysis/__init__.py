"""Looking at runs and models: figures. Needs matplotlib (the extra ``[train]``)."""

from pyg_schnet.analysis.calibration import calibration_curve, plot_calibration
from pyg_schnet.analysis.dynamics_figures import plot_dynamics
from pyg_schnet.analysis.figures import plot_run, read_log

__all__ = ["calibration_curve", "plot_calibration", "plot_dynamics", "plot_run", "read_log"]
