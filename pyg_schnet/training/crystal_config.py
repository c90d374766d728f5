"""Options of runs on crystals."""

from dataclasses import dataclass

from pyg_schnet.training.config import TrainingConfig


@dataclass
class CrystalConfig(TrainingConfig):
    """A run on a property of crystals; the defaults suit some thousand structures.

    The protocol of the paper (T=6, 64 features, 5 Å) is preset=jcp-2018-crystals.

    Args:
        target: Property to learn, by default the formation energy per atom, eV.
        root: Folder of the processed data set.
        raw: A snapshot (JSON), a table with CIFs (CSV), or a folder of CIFs; by default the
            Materials Project itself, with your key.
        isolated: drop or keep structures that have an atom without neighbours.
        published_split: Take the split that came with the data (train, val and test of MP-20);
            train_size and val_size are then ignored.
        train_size: Structures to train on (3,000 and 60,000 in the paper).
        val_size: Structures for validation.
        num_interactions: Number of interaction blocks, T.
        normalize: neighbors (divide each convolution by the number of neighbours, as the paper),
            or none.
        schedule: exponential, cosine, sgdr (warm restarts) or constant.
        ema: Decay of the moving average of weights that is validated, tested and kept.
        val_every: Steps between validations.
        patience: Validations without improvement before training stops.
        readout: mean (of contributions, for a property per atom), add or auto (by the property).
        offsets: dressed (regression on composition) or mean.
        loss: mse (as the papers) or mae.
    """

    target: str = "formation_energy_per_atom"
    root: str = "data/mp"
    isolated: str = "drop"
    published_split: bool = False
    train_size: int = 3_000
    val_size: int = 1_000
    num_interactions: int = 3
    schedule: str = "cosine"
    ema: float = 0.995
    val_every: int = 1_000
    patience: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choices(isolated=("drop", "keep"), offsets=("dressed", "mean"))
