"""What test_processes.py starts twice: torchrun ... in_two_processes.py FOLDER."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_tables import energy_options, force_options, small_table  # noqa: E402

from pyg_schnet.training.callbacks import StopCleanly  # noqa: E402
from pyg_schnet.training.loaders import EpochlessLoader  # noqa: E402
from pyg_schnet.training.module import PropertyTraining  # noqa: E402
from pyg_schnet.training.processes import Share, add_up_gradients, gathered  # noqa: E402
from pyg_schnet.training.run import EnergyAndForces, Property, build_model, train  # noqa: E402
from pyg_schnet.training.schedules import Schedule  # noqa: E402
from pyg_schnet.training.splits import random_split  # noqa: E402


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    written = []
    if rank > 0:

        def audit(event: str, arguments: tuple) -> None:
            if event == "open" and isinstance(arguments[0], str) and str(folder) in arguments[0]:
                mode, flags = arguments[1], arguments[2]
                if (mode and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR):
                    written.append(arguments[0])
            if event in ("os.rename", "os.mkdir", "os.remove") and str(folder) in str(arguments[0]):
                written.append(f"{event} {arguments[0]}")

        sys.addaudithook(audit)
    table = small_table()
    split = random_split(len(table), 40, 9)
    energy = Property("U0", "eV", "kcal/mol", 23.06)
    forces = EnergyAndForces("small")

    train(energy_options(), energy, table, split, folder / "two")
    train(force_options(), forces, table, split, folder / "two_forces")
    train(energy_options(max_steps=6), energy, table, split, folder / "two_then_one")
    train(energy_options(), energy, table, split, folder / "one_then_two", resume=True)
    train(energy_options(accumulate_grad_batches=2), energy, table, split, folder / "two_halves")

    found = {}
    # One process is asked to stop; both do, after the same step.
    original = StopCleanly.after_step

    def interrupt(self: StopCleanly, module: PropertyTraining) -> None:
        if rank == 1 and module.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, module)

    StopCleanly.after_step = interrupt
    stopped = train(energy_options(max_steps=10**6), energy, table, split, folder / "stopped")
    StopCleanly.after_step = original
    found["stopped"] = stopped["stopped"], stopped["steps"]
    timed = energy_options(max_steps=10**6, max_time="1s", schedule="cosine")
    timed = train(timed, energy, table, split, folder / "timed")
    found["timed"] = timed["stopped"], timed["steps"]

    # Rows of two passes, and the gradients of a batch.
    loader = EpochlessLoader(table, split.train, 8, 5.0, 3, share=Share(rank, 2))
    batches = iter(loader)
    found["rows"] = [next(batches).rows.tolist() for _ in range(10)]
    gradients = {}
    for name, target, config in (
        ("energy", energy, energy_options()),
        ("forces", forces, force_options()),
        ("odd", energy, energy_options()),
    ):
        model = build_model(config, target, table, split.train)
        module = target.module(config, model, Schedule("constant", 1e-3), table, split.train)
        module.trainer = Trainerless()
        size = 7 if name == "odd" else 8
        loader = EpochlessLoader(table, split.train, size, 5.0, 3, share=Share(rank, 2))
        module.differentiate(next(iter(loader)), False)
        parameters = list(module.parameters())
        add_up_gradients(parameters, loader.weight)
        gradients[name] = [p.grad for p in parameters]
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")
    uneven = gathered(torch.arange(3.0 * (rank + 1)).view(-1, 3))
    found["gathered"] = uneven.tolist()
    found["written"] = written
    report = json.dumps(found)
    reports = [None, None]
    dist.all_gather_object(reports, report)
    if rank == 0:
        (folder / "reports.json").write_text(json.dumps([json.loads(r) for r in reports]))


class Trainerless:
    precision = "32-true"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
