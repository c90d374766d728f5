"""Training: splits, batches, protocols, runs. Needs the extra ``[train]``."""
