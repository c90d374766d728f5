"""Training: splits, batches, protocols, runs. Needs the extra ``[train]``."""

import pyg_schnet._pyg  # noqa: F401
