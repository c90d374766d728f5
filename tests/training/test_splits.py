import numpy as np
import pytest
import torch

from pyg_schnet.training.splits import Split, random_split, split_of_parts


def test_a_split_has_the_sizes_asked_for_and_uses_every_row_once():
    split = random_split(130, 100, 10)
    assert [len(part) for part in (split.train, split.val, split.test)] == [100, 10, 20]
    rows = torch.cat([split.train, split.val, split.test])
    assert torch.equal(rows.sort().values, torch.arange(130))


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    assert torch.equal(
        random_split(50, 30, 10, seed=3).train, random_split(50, 30, 10, seed=3).train
    )
    assert not torch.equal(
        random_split(50, 30, 10, seed=3).train, random_split(50, 30, 10, seed=4).train
    )


def test_a_test_set_of_given_size_leaves_rows_over():
    assert len(random_split(50, 30, 10, test=5).test) == 5


@pytest.mark.parametrize(
    ("train", "val", "test"), [(60, 0, None), (30, 15, 10), (0, 5, 5), (9, -1, 1)]
)
def test_sizes_that_do_not_fit_are_refused_with_all_numbers(train, val, test):
    with pytest.raises(ValueError, match=f"Cannot split 50 molecules into train={train}"):
        random_split(50, train, val, test)


def test_overlapping_parts_are_refused():
    with pytest.raises(ValueError, match="disjoint"):
        Split(torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([2]))


def test_a_split_is_read_as_written(tmp_path):
    split = random_split(20, 10, 5)
    split.save(tmp_path / "split.npz")
    read = Split.load(tmp_path / "split.npz")
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(read, name), getattr(split, name))
    assert [path.name for path in tmp_path.iterdir()] == ["split.npz"]


def test_published_splits_with_idx_names_are_read(tmp_path):
    np.savez(tmp_path / "s.npz", train_idx=[0, 1], val_idx=[2], test_idx=[3])
    assert Split.load(tmp_path / "s.npz").test.tolist() == [3]


def test_a_split_file_that_is_none_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no split file"):
        Split.load(tmp_path / "missing.npz")
    np.savez(tmp_path / "s.npz", train=[0])
    with pytest.raises(ValueError, match="no array 'val'"):
        Split.load(tmp_path / "s.npz")


def test_a_split_of_published_parts_stays_within_them():
    train, test = torch.arange(0, 20, 2), torch.arange(1, 20, 2)
    split = split_of_parts(train, train, test, train=6, val=3, seed=1)
    assert torch.isin(torch.cat([split.train, split.val]), train).all()
    assert torch.equal(split.test, test) and (len(split.train), len(split.val)) == (6, 3)
    again = split_of_parts(train, train, test, train=6, val=3, seed=1)
    assert torch.equal(split.train, again.train) and torch.equal(split.val, again.val)
    whole = split_of_parts(train, test[:4], test[4:], train=0, val=0)
    assert torch.equal(whole.train.sort().values, train)
    assert torch.equal(whole.val.sort().values, test[:4])
    for sizes in ((11, 0), (8, 3), (-1, 1)):
        with pytest.raises(ValueError, match="from the published split"):
            split_of_parts(train, train, test, *sizes)
