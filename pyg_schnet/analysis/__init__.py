"""Looking at runs and models: figures. Needs matplotlib (the extra ``[train]``)."""

from pyg_schnet.analysis.figures import plot_run, read_log

__all__ = ["plot_run", "read_log"]
