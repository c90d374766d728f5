import pytest
import torch
from helpers import small_schnet

from pyg_schnet.models.inputs import checked_batch

POS = torch.randn(2, 3, dtype=torch.float64)
Z = torch.tensor([6, 8])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"z": torch.tensor([6.0, 8.0])},
            r"z must be one integer.*float32 of shape \(2,\).*z.long",
        ),
        ({"z": torch.tensor([[6], [8]])}, r"z must be one integer.*\(2, 1\)"),
        ({"z": torch.tensor([True, False])}, "z must be one integer.*bool"),
        ({"z": torch.tensor([6, 100])}, r"z must lie in 0\.\.99.*got 100"),
        ({"z": torch.tensor([-1, 8])}, r"z must lie in 0\.\.99.*got -1"),
        ({"pos": POS[:, :2]}, r"pos must have shape \(2, 3\).*got \(2, 2\)"),
        ({"pos": POS[:1]}, r"pos must have shape \(2, 3\).*got \(1, 3\)"),
        ({"pos": POS.float()}, r"pos is float32 but the model is float64.*pos.to\(torch.float64\)"),
        ({"batch": torch.tensor([0])}, r"batch must be one integer per atom, shape \(2,\)"),
        ({"batch": torch.tensor([0.0, 1.0])}, "batch must be one integer per atom.*float32"),
    ],
)
def test_says_what_is_wrong_with_an_input(arguments, sentence):
    given = {"z": Z, "pos": POS, "batch": None, **arguments}
    with pytest.raises(ValueError, match=sentence):
        checked_batch(**given, dtype=torch.float64)
    with pytest.raises(ValueError, match=sentence):
        small_schnet()(**given)


def test_batch_becomes_zeros_or_int64():
    assert checked_batch(Z, POS, None, torch.float64).tolist() == [0, 0]
    batch = checked_batch(Z, POS, torch.tensor([0, 1], dtype=torch.int32), torch.float64)
    assert batch.dtype == torch.int64 and batch.tolist() == [0, 1]


def test_positions_that_are_not_finite_are_refused():
    pos = POS.clone()
    pos[1, 2] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        small_schnet()(Z, pos)


def test_cell_without_shifts_for_given_edges_is_refused():
    edges = torch.tensor([[1], [0]])
    with pytest.raises(ValueError, match="cell is given without cell_shift"):
        small_schnet()(Z, POS, edge_index=edges, cell=torch.eye(3).double())
