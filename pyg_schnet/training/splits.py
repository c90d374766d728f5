"""Training, validation and test sets that do not overlap and can be read again."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Rows of a data set for training, validation and test, each a (n,) int64 tensor.

    Raises:
        ValueError: If a row occurs twice.
    """

    train: Tensor
    val: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        rows = torch.cat([self.train, self.val, self.test])
        if rows.unique().numel() != rows.numel():
            raise ValueError(
                "The split uses some rows more than once: training, validation and test must be "
                "disjoint."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.npz`` file, whole or not at all."""
        aside = Path(f"{path}.part.npz")
        np.savez(aside, train=self.train.numpy(), val=self.val.numpy(), test=self.test.numpy())
        os.replace(aside, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Split":
        """Read what :meth:`save` wrote, or any npz with train/val/test (``train_idx`` ... too).

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, lacks one of the three, or rows are no whole numbers.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no split file at {path}.")
        try:
            # Opened here: np.load leaves a damaged file open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {key: np.asarray(archive[key]) for key in archive}
        except Exception as error:  # zipfile, zlib and NumPy raise whatever the bytes lead to
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            what = f"{type(error).__name__}: {str(error)[:100]}"
            raise ValueError(
                f"{path} cannot be read as a split ({what}); make it again with Split.save."
            ) from error
        parts = []
        for name in ("train", "val", "test"):
            key = name if name in arrays else f"{name}_idx"
            if key not in arrays:
                raise ValueError(
                    f"{path} has no array {name!r} (or '{name}_idx'); it holds {list(arrays)}."
                )
            rows = arrays[key]
            if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows.size and rows.min() < 0):
                raise ValueError(
                    f"{path}: {key} must be row numbers of 0 or more, shape (n,), got {rows.dtype} "
                    f"of shape {rows.shape}."
                )
            parts.append(torch.from_numpy(rows.astype(np.int64)))
        return cls(*parts)


def random_split(size: int, train: int, val: int, test: int | None = None, seed: int = 0) -> Split:
    """A seeded random split by numbers of rows.

    The same seed and sizes give the same split on every machine and with every version of torch,
    since NumPy's PCG64 stream is fixed.

    Args:
        size: Rows in the data set.
        train: Rows for training.
        val: Rows for validation.
        test: Rows for test; None takes the rest.
        seed: Of the permutation.

    Raises:
        ValueError: If a size is negative, nothing is left to train on, or more is asked for than
            there is.

    Example:
        >>> split = random_split(10, train=6, val=2)
        >>> split.train.numel(), split.val.numel(), split.test.numel()
        (6, 2, 2)
    """
    rest = size - train - val
    wanted = rest if test is None else test
    if train < 1 or val < 0 or wanted < 0 or train + val + wanted > size:
        raise ValueError(
            f"Cannot split {size} molecules into train={train}, val={val}, "
            f"test={'rest' if test is None else test}: sizes must not be negative, train at least "
            f"1, and their sum at most {size}."
        )
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(size))
    return Split(order[:train], order[train : train + val], order[train + val :][:wanted])


def split_of_parts(
    train_part: Tensor, val_part: Tensor, test_part: Tensor, train: int, val: int, seed: int = 0
) -> Split:
    """A split within published parts of a data set: the test part whole, seeded draws of the rest.

    Args:
        train_part: Rows to train on, at most.
        val_part: Rows to validate with, at most; those that are trained on are left out.
        test_part: Rows for test.
        train: Rows for training; 0 takes all.
        val: Rows for validation; 0 takes all that are left.
        seed: Of the draws.

    Raises:
        ValueError: If a size is negative, or more is asked for than there is.

    Example:
        >>> rows = torch.arange(10)
        >>> split = split_of_parts(rows[:6], rows[:6], rows[6:], train=4, val=2)
        >>> split.train.numel(), split.val.numel(), split.test.tolist()
        (4, 2, [6, 7, 8, 9])
    """
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = train_part[torch.from_numpy(random.permutation(len(train_part)))]
    chosen = drawn[: train or len(drawn)]
    left = val_part[~torch.isin(val_part, chosen)]
    left = left[torch.from_numpy(random.permutation(len(left)))]
    if not 0 <= train <= len(drawn) or not 0 <= val <= len(left):
        raise ValueError(
            f"Cannot take train={train} and val={val} from the published split: it has "
            f"{len(drawn)} rows for training, and {len(left)} for validation beside those."
        )
    return Split(chosen, left[: val or len(left)], test_part)
