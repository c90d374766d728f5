"""Predictions for millions of structures: a stream in, a table out, in constant memory."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from torch_geometric.data import Data
from tqdm import tqdm

from pyg_schnet.simulation.screening_files import Progress, ScreeningFiles
from pyg_schnet.simulation.screening_models import Predictor
from pyg_schnet.simulation.screening_rows import csv_rows, table, xyz_frames
from pyg_schnet.simulation.structure_streams import Place, Source, Structure, open_source

BATCH_ATOMS = 4096
"""Atoms that are evaluated together, unless one structure has more."""

BATCH_EDGES = 1_000_000
"""Edges that are, as far as they can be foreseen."""

_DENSE = 0.15  # atoms in a cubic Å, more than in any liquid: what edges are foreseen from
_SUFFIXES = (".csv", ".extxyz", ".xyz")


@dataclass(frozen=True)
class Screening:
    """What a screening has done.

    Attributes:
        rows: Structures that were predicted, those before an interrupt counted in.
        skipped: Structures that were left out.
        resumed: Structures that had been dealt with before.
        seconds: Of this call.
        output: The file.
        list: Of the structures that were left out, or None.
    """

    rows: int
    skipped: int
    resumed: int
    seconds: float
    output: Path
    list: Path | None

    def sentence(self) -> str:
        """In words."""
        done = self.rows + self.skipped - self.resumed
        rate = f"{done / self.seconds:,.0f} structures/s" if self.seconds > 0 else ""
        earlier = f" after {self.resumed:,} of an earlier start" if self.resumed else ""
        text = f"Wrote {self.rows:,} predictions to {self.output}: {done:,} structures{earlier}"
        text += f" in {self.seconds:.1f} s" + (f" ({rate})" if rate else "")
        return text + (f"; {self.skipped:,} skipped, see {self.list}" if self.skipped else "")


def screen(
    sources: Sequence[Source | str | os.PathLike[str] | Sequence[Data]],
    model: nn.Module | Mapping[str, nn.Module],
    output: str | os.PathLike[str],
    *,
    forces: bool = False,
    skip_bad: bool = False,
    index: str = ":",
    batch_atoms: int = BATCH_ATOMS,
    save_every: float = 2.0,
    on_skip: Callable[[str], None] | None = None,
) -> Screening:
    """Predict all structures of files or data sets, in their order, in constant memory.

    Structures are evaluated many at a time. Rows are written to ``OUTPUT.part``, which becomes the
    output at the end; what is complete is noted every few seconds. The same call after an
    interrupt, a kill or a full disk goes on from there, and the output is the same, byte for byte,
    as that of a call that was not interrupted (with as many threads on the same machine).

    A structure is bad if it cannot be read, has an atom without a finite position or of an element
    that the model was not trained on (where its file says so), or if its prediction is not finite.

    Args:
        sources: Each as :func:`~pyg_schnet.simulation.structure_streams.open_source` takes it.
        model: A :class:`~pyg_schnet.SchNet` or :class:`~pyg_schnet.DTNN`, a
            :class:`~pyg_schnet.Potential` of one, or an :class:`~pyg_schnet.Ensemble`, whose spread
            becomes a column too; or several by the name of what they predict.
        output: A table (``.csv``), or extended XYZ (``.extxyz``) of the structures with the energy.
        forces: The largest force too; in extended XYZ, all of them.
        skip_bad: Leave bad structures out and list them in ``STEM.skipped.csv``.
        index: Which structures of each source, ``start:stop:step`` counted from its beginning.
        batch_atoms: Atoms to evaluate together.
        save_every: Seconds between notes of how far it is.
        on_skip: Told of each structure that is left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a bad structure, naming it, unless they are skipped; if ``OUTPUT.part`` is
            of a screening with another model, other sources or other options; or if an argument
            does not fit.
        BlockingIOError: If another process is writing the same output.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pyg_schnet import SchNet
        >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.eye(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = screen([[water] * 3], SchNet(8, 8, 1, 10, 5.0), f"{folder}/out.csv")
        ...     lines = done.output.read_text().splitlines()
        >>> lines[0], len(lines), lines[1].split(",")[:2]
        ('index,formula,prediction (unit of the model)', 4, ['0', 'H2O'])
    """
    path = Path(output)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"output must end in {', '.join(_SUFFIXES)}, got {path.name!r}.")
    if batch_atoms < 1:
        raise ValueError(f"batch_atoms must be at least 1, got {batch_atoms}.")
    as_xyz = path.suffix != ".csv"
    predictor = Predictor(model, forces, as_xyz)
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    chosen = _chosen(index)
    opened = [open_source(source) for source in sources]
    for source in opened:
        if Path(source.name).resolve() == path.resolve():
            raise ValueError(f"output {path} is one of the inputs; choose another file.")
    facts = {
        "inputs": [list(source.identity) for source in opened],
        "model": predictor.identity,
        "forces": forces,
        "index": [chosen.start, chosen.stop, chosen.step],
        "batch_atoms": batch_atoms,
    }
    several = len(opened) > 1
    columns = (["file"] if several else []) + ["index", "formula", *predictor.columns]
    files = ScreeningFiles(path, facts, "" if as_xyz else table([columns]))
    started, begun = time.monotonic(), files.progress
    try:
        if not files.is_done:
            batches = _batches(opened, chosen, begun, predictor.cutoff, batch_atoms)
            with _Bar(opened, begun) as bar:
                saved = time.monotonic()
                for batch in batches:
                    name = opened[batch.source].name
                    text, rows, bad = _rows(batch, predictor, name if several else None, as_xyz)
                    _tell(name, bad, skip_bad, on_skip)
                    left_out = [(name, *one) for one in bad]
                    files.add(batch.source, batch.after, text, rows, left_out)
                    bar.update(files.progress)
                    if time.monotonic() - saved >= save_every:
                        files.save()
                        saved = time.monotonic()
            files.save(done=True)
    except BaseException:
        # What is complete is kept, and a second trouble must not hide the first.
        with suppress(OSError, ValueError):
            files.keep()
        files.close()
        raise
    files.finish()
    done = files.progress
    return Screening(
        done.rows,
        done.skipped,
        begun.rows + begun.skipped,
        time.monotonic() - started,
        path,
        files.skipped if done.skipped else None,
    )


def _rows(
    batch: "_Pending", predictor: Predictor, name: str | None, as_xyz: bool
) -> tuple[str, int, list[tuple[int, str]]]:
    """Rows of a batch as text, their number, and what is bad of which structures."""
    values, bad = predictor(batch.structures)
    good = [k for k in range(len(values)) if k not in bad]
    kept = (
        [batch.numbers[k] for k in good],
        [batch.structures[k] for k in good],
        [values[k] for k in good],
        name,
    )
    text = xyz_frames(*kept, predictor.has_spread) if as_xyz else csv_rows(*kept)
    told = [(batch.numbers[k], reason) for k, reason in bad.items()]
    return text, len(good), sorted([*batch.bad, *told])


@dataclass
class _Pending:
    """Structures to evaluate together, what is bad among them, and where to go on after them."""

    source: int
    structures: list[Structure]
    numbers: list[int]
    bad: list[tuple[int, str]]
    after: Place


def _batches(
    sources: Sequence[Source], chosen: slice, begun: Progress, cutoff: float, batch_atoms: int
) -> Iterator[_Pending]:
    """Structures in their order; how they are divided depends only on where a batch begins."""
    for number in range(begun.source, len(sources)):
        place = begun.place if number == begun.source else Place()
        held = _Pending(number, [], [], [], place)
        atoms = edges = 0.0
        for read in sources[number].read(place):
            if chosen.stop is not None and read.number >= chosen.stop:
                break
            if read.number < chosen.start or (read.number - chosen.start) % chosen.step:
                held.after = read.after
                continue
            if isinstance(read.structure, str):
                held.bad.append((read.number, read.structure))
            else:
                size, pairs = len(read.structure.z), foreseen_edges(read.structure, cutoff)
                full = atoms + size > batch_atoms or edges + pairs > BATCH_EDGES
                if full and held.structures:
                    yield held
                    held = _Pending(number, [], [], [], place)
                    atoms = edges = 0.0
                held.structures.append(read.structure)
                held.numbers.append(read.number)
                atoms, edges = atoms + size, edges + pairs
            place = held.after = read.after
            if len(held.bad) >= batch_atoms:  # or a file of nothing else would fill the memory
                yield held
                held = _Pending(number, [], [], [], place)
                atoms = edges = 0.0
        yield held


def foreseen_edges(structure: Structure, cutoff: float) -> float:
    """About as many edges as a structure will have, or more."""
    count = len(structure.z)
    sphere = 4.0 / 3.0 * np.pi * cutoff**3 if np.isfinite(cutoff) else np.inf
    if structure.cell is not None:
        volume = abs(float(np.linalg.det(structure.cell)))
        density = count / volume if volume > 0 else _DENSE
        return count * sphere * density if np.isfinite(sphere) else float(count) ** 2
    return float(count * min(count - 1, sphere * _DENSE))


def _chosen(index: str) -> slice:
    words = index.split(":")
    try:
        numbers = [int(word) if word.strip() else None for word in words]
    except ValueError:
        numbers = [-1]
    if len(words) == 1 and numbers[0] is not None and numbers[0] >= 0:
        return slice(numbers[0], numbers[0] + 1, 1)
    start, stop, step = ([*numbers, None, None])[:3]
    if not 2 <= len(words) <= 3 or any(n is not None and n < 0 for n in numbers) or step == 0:
        raise ValueError(
            "index of a stream must count from its beginning, as 100:200 or ::10, for its end is "
            f"not known; got {index!r}."
        )
    return slice(start or 0, stop, step or 1)


def _tell(
    name: str,
    skipped: Sequence[tuple[int, str]],
    skip_bad: bool,
    on_skip: Callable[[str], None] | None,
) -> None:
    for number, reason in skipped:
        told = f"structure {number} of {name}: {reason}"
        if not skip_bad:
            raise ValueError(
                f"{told}; mend it, or leave such structures out with --skip_bad (skip_bad=True)."
            )
        if on_skip is not None:
            on_skip(told)


class _Bar:
    """How far a screening is, by bytes of its files; on a terminal only."""

    def __init__(self, sources: Sequence[Source], begun: Progress) -> None:
        self._known = [source.length for source in sources]
        form = "{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]"
        self._bar = tqdm(total=1.0, disable=None, bar_format=form, initial=self._part(begun))
        self._first = begun.rows + begun.skipped

    def _part(self, progress: Progress) -> float:
        length = self._known[progress.source] if progress.source < len(self._known) else 1
        within = min(1.0, progress.place.offset / length) if length else 0.0
        return (progress.source + within) / max(1, len(self._known))

    def update(self, progress: Progress) -> None:
        """Move it."""
        if self._bar.disable:
            return
        done = progress.rows + progress.skipped
        rate = (done - self._first) / max(1e-9, self._bar.format_dict["elapsed"])
        self._bar.set_description_str(f"{done:,} structures, {rate:,.0f}/s", refresh=False)
        self._bar.update(self._part(progress) - self._bar.n)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
