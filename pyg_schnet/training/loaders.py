"""In which order molecules are trained on, validated and tested."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.processes import Share

AHEAD = 512
"""Molecules of which a loader makes batches at a time."""


class EpochlessLoader:
    """Shuffled batches without end; step ``n`` is the same batch in every run with the same seed.

    The order is that of PyG's ``DataLoader(dataset[rows], batch_size, shuffle=True,
    drop_last=True, generator=torch.Generator().manual_seed(seed))`` in this process, pass after
    pass: an incomplete last batch of a pass is left out. Starting at a step instead of at an epoch
    is what lets a run resume bit for bit; what earlier passes drew is then drawn again. Several
    processes draw the same batches, and each makes its share of them alone.

    Args:
        table: The molecules.
        rows: (n,) rows to draw from.
        batch_size: Molecules in a batch; at most n are used.
        cutoff: Of the edges, Å; None for all pairs.
        seed: Of the permutations.
        start: First step.
        accumulate: Batches of a step; batches of a pass that do not make up a step are left out,
            unless there are no more.
        share: Of each batch, in which the structures of this process follow each other.

    Raises:
        ValueError: If there is no row, or the batches are too small to be shared.
    """

    def __init__(
        self,
        table: MoleculeTable,
        rows: Tensor,
        batch_size: int,
        cutoff: float | None,
        seed: int = 0,
        start: int = 0,
        accumulate: int = 1,
        share: Share | None = None,
    ) -> None:
        if not rows.numel():
            raise ValueError("rows is empty; give at least one molecule to train on.")
        self.table, self.rows, self.cutoff, self.seed = table, rows, cutoff, seed
        self.batch_size = min(batch_size, rows.numel())
        self.start, self.accumulate = start, accumulate
        self.share = Share() if share is None else share
        if self.batch_size < self.share.count:
            raise ValueError(
                f"batch_size is {self.batch_size}, less than the {self.share.count} processes that "
                "share a batch; raise it, or use fewer."
            )
        batches = rows.numel() // self.batch_size
        self.batches_per_pass = batches // accumulate * accumulate or batches

    def __iter__(self) -> Iterator[Batch]:
        passes, place = divmod(self.start * self.accumulate, self.batches_per_pass)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(passes):
            self._draw(generator)
        while True:
            order = self.rows[self._draw(generator)]
            order = order[: self.batches_per_pass * self.batch_size].view(-1, self.batch_size)
            yield from _ahead(self.table, self.share.of(order[place:]), self.cutoff)
            place = 0

    @property
    def weight(self) -> float:
        """The part of each batch that this process has."""
        mine = self.share.of(torch.empty(self.batch_size)).numel()
        return mine / self.batch_size

    def _draw(self, generator: torch.Generator) -> Tensor:
        """The permutation of the next pass, and from the generator all that a DataLoader draws."""
        # First the seed of its workers, though it has none.
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        order = torch.randperm(self.rows.numel(), generator=generator)
        # When it has used them up, RandomSampler draws again, to take none of these.
        torch.randperm(self.rows.numel(), generator=generator)
        return order


class Rounds:
    """Batches in lists, for several steps at a time, that end where a validation is due.

    Args:
        loader: Batches without end, beginning at its ``start``.
        size: Steps of a round, at most.
        every: Steps between validations; no round goes beyond a multiple of it.
        last: Step at which the last round ends.
    """

    def __init__(self, loader: EpochlessLoader, size: int, every: int, last: int) -> None:
        self.loader, self.size, self.every, self.last = loader, size, every, last

    def __iter__(self) -> Iterator[list[Batch]]:
        step, batches = self.loader.start, iter(self.loader)
        while True:
            count = min(self.size, self.every - step % self.every)
            if step < self.last:
                count = min(count, self.last - step)
            yield [next(batches) for _ in range(count * self.loader.accumulate)]
            step += count


class OrderedLoader:
    """Every row once, in order, in batches, as PyG's ``DataLoader``: for validation and test.

    Args:
        table: The molecules.
        rows: (n,) rows.
        batch_size: Molecules in a batch; the last may be smaller.
        cutoff: Of the edges, Å; None for all pairs.
    """

    def __init__(
        self, table: MoleculeTable, rows: Tensor, batch_size: int, cutoff: float | None
    ) -> None:
        self.table, self.rows, self.batch_size, self.cutoff = table, rows, batch_size, cutoff

    def __len__(self) -> int:
        return -(-self.rows.numel() // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        whole = self.rows.numel() // self.batch_size * self.batch_size
        full, rest = self.rows[:whole].view(-1, self.batch_size), self.rows[whole:]
        yield from _ahead(self.table, full, self.cutoff)
        if rest.numel():
            yield self.table.batch(rest, self.cutoff)


def _ahead(table: MoleculeTable, rows: Tensor, cutoff: float | None) -> Iterator[Batch]:
    """Batches of ``rows`` (G, B), several small ones made at a time.

    A training step empties the caches of the processor; what one batch needs of the code and of
    the table then serves its neighbours too.
    """
    for some in rows.split(max(1, AHEAD // rows.shape[1])):
        made = table.batches(some, cutoff)
        made.reverse()
        while made:
            yield made.pop()
