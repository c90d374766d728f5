"""Does training with tabulated filters reach what exact filters reach? U0 of QM9, several seeds.

python -m pyg_schnet.benchmarks.accuracy.tabulated_filters --root data/qm9 --json FILE
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from pyg_schnet.cli.tasks import qm9_property
from pyg_schnet.datasets import QM9
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.config import TrainingConfig
from pyg_schnet.training.run import train
from pyg_schnet.training.splits import random_split


def main() -> None:
    """Train and print the validation errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data/qm9")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-size", type=int, default=5_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = QM9(options.root, target="U0")
    table, wanted = MoleculeTable.from_dataset(dataset), qm9_property(dataset, "U0")
    split = random_split(len(table), options.train_size, 2_000, 2_000, seed=0)
    rows = []
    for seed in range(options.seeds):
        for filters in ("exact", "tabulated"):
            config = TrainingConfig(
                num_interactions=3,
                filters=filters,
                schedule="cosine",
                max_steps=options.steps,
                val_every=500,
                seed=seed,
                tensorboard=False,
            )
            with tempfile.TemporaryDirectory() as folder:
                found = train(config, wanted, table, split, Path(folder))
            row = {"filters": filters, "seed": seed, "val_mae": found["val_mae"]}
            row |= {"test_mae": found["test_mae"], "seconds": found["seconds"]}
            rows.append(row)
            print(row, flush=True)
    summary = {}
    for filters in ("exact", "tabulated"):
        errors = [row["val_mae"] for row in rows if row["filters"] == filters]
        summary[filters] = {
            "val_mae": statistics.mean(errors),
            "standard_deviation": statistics.stdev(errors) if len(errors) > 1 else 0.0,
        }
    print(json.dumps(summary, indent=2))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=2) + "\n")


if __name__ == "__main__":
    main()
