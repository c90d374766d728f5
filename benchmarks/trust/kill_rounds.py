"""Kills work at random moments, goes on with it, and compares it with what was never killed.

A round begins in an empty folder. A process works, is killed by SIGKILL at a random moment, and
what it has left is looked at: each file must be absent or whole. That is repeated, and then the
same call runs to its end; the result must be that of an uninterrupted call, bit for bit (path
integrals: all steps, with energy conserved across the seams, as i-PI rounds what it writes).
"""

import argparse
import hashlib
import http.server
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

SEED = 0
CONTENT = bytes(range(256)) * (1 << 15)  # 8 MiB
_PIECE, _PAUSE = 1 << 17, 0.008  # bytes and seconds: half a second in all


class Kind(NamedTuple):
    """A kind of work.

    Attributes:
        rounds: How many.
        kills: In each round.
        share: Of the time of an uninterrupted call, in which a kill comes.
        work: Does all there is to do in a folder, or goes on with it.
        look: Raises AssertionError where a file is neither absent nor whole.
        result: What is compared at the end.
        prepare: Makes what the work reads, once.
    """

    rounds: int
    kills: int
    share: float
    work: Callable[[Path, Path], None]
    look: Callable[[Path, Path], None]
    result: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda given: None


def forked(work: Callable[[], object], kill_after: float | None = None) -> bool:
    """Run something in a process of its own; whether it was killed before its end.

    Args:
        work: What to run.
        kill_after: Seconds; None: let it end.

    Raises:
        RuntimeError: if it fails.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            warnings.simplefilter("ignore")
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(f"the work failed with status {status}")
    return False


class _Slow(http.server.BaseHTTPRequestHandler):
    """Sends CONTENT piece by piece, from the byte that is asked for."""

    def do_GET(self) -> None:
        """Answer."""
        asked = self.headers.get("Range")
        start = int(asked[6:-1]) if asked else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        for first in range(start, len(CONTENT), _PIECE):
            try:
                self.wfile.write(CONTENT[first : first + _PIECE])
            except OSError:
                return
            time.sleep(_PAUSE)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


def _serve(given: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    (given / "url.part").write_text(f"http://127.0.0.1:{server.server_port}/file")
    os.replace(given / "url.part", given / "url")
    server.serve_forever()


def _download(given: Path, folder: Path) -> None:
    from pyg_schnet.datasets.sources import download

    os.environ["no_proxy"] = "127.0.0.1"
    right = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    download((given / "url").read_text(), folder / "file", right)


def _look_at_download(given: Path, folder: Path) -> None:
    path, part = folder / "file", folder / "file.part"
    assert not path.exists() or path.read_bytes() == CONTENT
    assert not part.exists() or CONTENT.startswith(part.read_bytes())


def _files(*names: str) -> Callable[[Path], dict[str, str]]:
    def result(folder: Path) -> dict[str, str]:
        found = [path for name in names for path in sorted(folder.glob(name))]
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    return result


def _prepare_data(given: Path) -> None:
    """An archive in the layout of ISO17: two databases of 800 frames."""
    import io
    import sqlite3
    import tarfile

    rng = np.random.default_rng(SEED)
    numbers = np.array([6] * 7 + [8] * 2 + [1] * 10, dtype="<i4").tobytes()
    with tarfile.open(given / "iso17.tar.gz", "w:gz") as archive:
        for name in ("test_within", "test_other"):
            connection = sqlite3.connect(given / "database")
            connection.execute("CREATE TABLE information (name TEXT, value TEXT)")
            connection.execute("INSERT INTO information VALUES ('version', '8')")
            columns = "id INTEGER, numbers BLOB, positions BLOB, key_value_pairs TEXT, data TEXT"
            connection.execute(f"CREATE TABLE systems ({columns})")
            for k in range(1, 801):
                row = (
                    k,
                    numbers,
                    rng.normal(0, 2, (19, 3)).astype("<f8").tobytes(),
                    json.dumps({"total_energy": -11_505.0 + rng.normal()}),
                    json.dumps({"atomic_forces": rng.normal(0, 1, (19, 3)).tolist()}),
                )
                connection.execute("INSERT INTO systems VALUES (?, ?, ?, ?, ?)", row)
            connection.commit()
            connection.close()
            content = (given / "database").read_bytes()
            (given / "database").unlink()
            info = tarfile.TarInfo(f"iso17/{name}.db")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _process(given: Path, folder: Path) -> None:
    from pyg_schnet.datasets import ISO17

    for name in ("test_within", "test_other"):
        ISO17(folder, name, raw=_own_archive(given, folder))


def _own_archive(given: Path, folder: Path) -> Path:
    path = folder / "raw" / "iso17.tar.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(given / "iso17.tar.gz", path)
    return path


def _look_at_data(given: Path, folder: Path) -> None:
    from pyg_schnet.datasets.storage import load_collated

    unpacked = folder / "raw" / "iso17"
    if unpacked.exists():
        assert sorted(p.name for p in unpacked.iterdir()) == [
            "test_other.db",
            "test_within.db",
            "unpacked_from.txt",
        ]
    for path in folder.glob("processed/*.safetensors"):
        data, slices, _ = load_collated(path)
        assert len(slices["energy"]) == 801 and data.forces.shape == (800 * 19, 3)


def _processed(folder: Path) -> dict[str, str]:
    """Digests of the numbers: safetensors writes the entries of a header in any order."""
    from pyg_schnet.datasets.storage import load_collated

    found = {}
    for path in sorted(folder.glob("processed/*.safetensors")):
        data, slices, header = load_collated(path)
        digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
        for key in sorted(slices):
            digest.update(
                key.encode() + data[key].numpy().tobytes() + slices[key].numpy().tobytes()
            )
        found[path.name] = digest.hexdigest()
    return found


def _generate(given: Path, folder: Path) -> None:
    from ase.calculators.emt import EMT

    from pyg_schnet.datasets import dynamics
    from pyg_schnet.datasets.generate import generate

    dynamics._SAVE_EVERY = 0.05
    generate("water", folder / "water.extxyz", 120, every=5, equilibration=200, calculator=EMT())


def _look_at_generation(given: Path, folder: Path) -> None:
    from pyg_schnet.datasets.dynamics import read_state, state_path

    output = folder / "water.extxyz"
    if state_path(output).exists():
        state = read_state(output)
        frames = output if output.exists() else output.with_name(f"{output.name}.part")
        text = frames.read_bytes()[: int(state["size"])].decode()
        assert len(text.splitlines()) == 5 * int(state["frames"])


def _prepare_training(given: Path) -> None:
    from ase.build import molecule

    from pyg_schnet.units import KCAL_PER_MOL

    rng = np.random.default_rng(SEED)
    pos = molecule("CH3CH2OH").positions + rng.normal(0, 0.05, (80, 9, 3))
    energy = -4215.0 + (pos**2).sum((1, 2)) * 0.5
    forces = -pos
    np.savez(
        given / "md17_ethanol.npz",
        z=molecule("CH3CH2OH").numbers,
        R=pos,
        E=energy[:, None] / KCAL_PER_MOL,
        F=forces / KCAL_PER_MOL,
    )


def _train(given: Path, folder: Path) -> None:
    from pyg_schnet.datasets import MD17
    from pyg_schnet.training.force_config import MD17Config
    from pyg_schnet.training.force_tasks import md17_task
    from pyg_schnet.training.tasks import train_task

    config = MD17Config(
        root=str(given / "data"), raw=str(given / "md17_ethanol.npz"), output=str(folder / "run"),
        train_size=40, val_size=10, test_size=10, hidden_channels=8, num_filters=8,
        num_interactions=2, num_gaussians=10, batch_size=8, max_steps=200, val_every=20,
        log_every=20, tensorboard=False, accelerator="cpu",
    )  # fmt: skip
    run = folder / "run"
    resume = (run / "last.ckpt").is_file()
    data = MD17(config.root, "ethanol", raw=config.raw)
    train_task(md17_task(config, data, run if resume else None), config, run, resume=resume)


def _look_at_training(given: Path, folder: Path) -> None:
    from pyg_schnet.models import load
    from pyg_schnet.training.splits import Split

    run = folder / "run"
    if (run / "last.ckpt").exists():
        assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] > 0
        load(run / "best.safetensors")
        assert Split.load(run / "split.npz").train.numel() == 40
    if (run / "metrics.json").exists():
        json.loads((run / "metrics.json").read_text())


def _trained(folder: Path) -> dict[str, str]:
    run = folder / "run"
    state = torch.load(run / "last.ckpt", weights_only=True)
    digest = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                take(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                take(each)

    for part in ("state_dict", "current_model_state", "optimizer_states", "global_step"):
        take(state[part])
    metrics = json.loads((run / "metrics.json").read_text())
    metrics = {k: v for k, v in metrics.items() if "second" not in k}
    weights = hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest()
    return {"last": digest.hexdigest(), "best": weights, "metrics": json.dumps(metrics)}


def _dynamics(given: Path, folder: Path) -> None:
    from ase.build import molecule

    from pyg_schnet.simulation import dynamics, run_md

    dynamics._SAVE_EVERY = 0.03
    run_md(
        "md17-ethanol", molecule("CH3CH2OH"), folder / "md.extxyz", time=1.5, every=10,
        thermostat="langevin", replicas=2, progress=False, report=False,
    )  # fmt: skip


def _look_at_dynamics(given: Path, folder: Path) -> None:
    from pyg_schnet.simulation.trajectories import Files

    files = Files(folder / "md.extxyz", 2)
    if not files.state.exists():
        return
    with np.load(files.state, allow_pickle=False) as state:
        sizes, frames = state["sizes"], int(state["frames"])
    for r in range(2):
        path = files.outputs[r] if files.outputs[r].exists() else files.parts[r]
        text = path.read_bytes()[: int(sizes[r, 0])].decode()
        assert len(text.splitlines()) == 11 * frames
        log = files.logs[r].read_bytes()[: int(sizes[r, 1])].decode()
        assert len(log.splitlines()) == frames + 1


_PIMD_STEPS = 200


def _path_integrals(given: Path, folder: Path) -> None:
    from ase.build import molecule

    from pyg_schnet.simulation import run_pimd

    time_ps = _PIMD_STEPS * 5e-4
    water = molecule("CH3CH2OH")
    run_pimd("md17-ethanol", water, folder / "out", time_ps, every=10, progress=False)


def _look_at_path_integrals(given: Path, folder: Path) -> None:
    from pyg_schnet.simulation import pimd_processes
    from pyg_schnet.simulation.pimd_files import PimdFiles

    out = folder / "out"
    if not out.exists():
        return
    with pimd_processes.locked(out):  # free once i-PI and the driver have ended
        pass
    files = PimdFiles(out, 9)
    if files.properties.exists():
        steps = files.table()[:, 0] if files.table().size else np.empty(0)
        assert np.array_equal(steps, 10 * np.arange(len(steps)))


def _integrated(folder: Path) -> dict[str, Any]:
    """Steps, and whether energy was lost at a seam; the numbers differ, as i-PI rounds."""
    from pyg_schnet.simulation.pimd_files import PimdFiles

    table = PimdFiles(folder / "out", 9).table()
    report = json.loads((folder / "out" / "report.json").read_text())
    return {
        "steps": table[:, 0].tolist(),
        "finite": bool(np.isfinite(table).all()),
        "conserved": bool(np.ptp(table[:, 5]) < 0.05),
        "frames": report["frames"],
        "beads": (folder / "out" / "beads.extxyz").read_text().count("Properties="),
    }


KINDS = {
    "download": Kind(10, 3, 0.6, _download, _look_at_download, _files("file*")),
    "processing": Kind(10, 3, 0.8, _process, _look_at_data, _processed, _prepare_data),
    "generation": Kind(5, 3, 0.5, _generate, _look_at_generation, _files("water.extxyz")),
    "training": Kind(10, 3, 0.5, _train, _look_at_training, _trained, _prepare_training),
    "dynamics": Kind(10, 4, 0.5, _dynamics, _look_at_dynamics, _files("*.extxyz", "*.csv")),
    "path integrals": Kind(5, 2, 0.5, _path_integrals, _look_at_path_integrals, _integrated),
}


def run_kind(name: str, rounds: int | None, place: Path, seed: int) -> dict[str, Any]:
    """All rounds of one kind.

    Args:
        name: Of the kind.
        rounds: How many; None: as many as the kind says.
        place: Folder to work in.
        seed: Of the moments.

    Returns:
        Counts: rounds, kills that met work under way, what was lost, half read or different.
    """
    kind, moments = KINDS[name], random.Random(f"{name} {seed}")
    given = place / "given"
    given.mkdir(parents=True)
    kind.prepare(given)
    server = None
    if name == "download":
        server = os.fork()
        if server == 0:
            _serve(given)
        while not (given / "url").exists():
            time.sleep(0.01)
    try:
        reference = place / "reference"
        reference.mkdir()
        began = time.perf_counter()
        forked(lambda: kind.work(given, reference))
        alone = time.perf_counter() - began
        wanted = kind.result(reference)
        counts: dict[str, Any] = {
            "rounds": 0, "kills": 0, "ended_before_the_kill": 0, "half_written": 0, "different": 0,
            "failed_to_go_on": 0, "seconds_alone": round(alone, 2), "faults": [],
        }  # fmt: skip
        for k in range(kind.rounds if rounds is None else rounds):
            _round(kind, given, place / f"round{k}", wanted, moments, counts, kind.share * alone)
    finally:
        if server:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    return counts


def _round(
    kind: Kind,
    given: Path,
    folder: Path,
    wanted: Any,
    moments: random.Random,
    counts: dict[str, Any],
    seconds: float,
) -> None:
    folder.mkdir()
    counts["rounds"] += 1
    try:
        for _ in range(kind.kills):
            after = moments.uniform(0.0, seconds)
            killed = forked(lambda: kind.work(given, folder), after)
            counts["kills" if killed else "ended_before_the_kill"] += 1
            try:
                kind.look(given, folder)
            except Exception as error:
                counts["half_written"] += 1
                counts["faults"].append(f"half written: {type(error).__name__}: {error}")
        forked(lambda: kind.work(given, folder))
    except RuntimeError as error:
        counts["failed_to_go_on"] += 1
        counts["faults"].append(str(error))
        return
    if kind.result(folder) != wanted:
        counts["different"] += 1
        counts["faults"].append(f"round {folder.name} ended in another result")
    shutil.rmtree(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds, print and record their counts; 1 if anything was lost.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, help="of each kind; by default 50 in all")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, help="JSON file for the record")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    _warm_up()
    record: dict[str, Any] = {
        "seed": options.seed,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(),
                    "torch": torch.__version__, "system": platform.platform()},
        "kinds": {},
    }  # fmt: skip
    if options.output and options.output.exists():
        # Of kinds that are not run now.
        record["kinds"] = json.loads(options.output.read_text())["kinds"]
    for name in options.kinds:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            counts = run_kind(name, options.rounds, Path(place), options.seed)
        record["kinds"][name] = counts
        print(f"{name}: {counts}", flush=True)
    bad = ("half_written", "different", "failed_to_go_on")
    every = list(record["kinds"].values())
    record["rounds"] = sum(counts["rounds"] for counts in every)
    record["kills"] = sum(counts["kills"] for counts in every)
    record["lost"] = sum(counts[what] for counts in every for what in bad)
    print(f"{record['rounds']} rounds, {record['kills']} kills, {record['lost']} lost")
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if record["lost"] else 0


def _warm_up() -> None:
    """Import what the work needs, so that a kill meets the work and not the imports."""
    import ase.build
    import ase.io  # noqa: F401
    from ase.calculators.emt import EMT  # noqa: F401

    import pyg_schnet.datasets
    import pyg_schnet.simulation
    import pyg_schnet.training.tasks  # noqa: F401


if __name__ == "__main__":
    raise SystemExit(main())
