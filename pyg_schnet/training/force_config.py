"""Options of runs on energies and forces."""

from dataclasses import dataclass

from pyg_schnet.training.config import RunConfig


@dataclass
class ForceTrainingConfig(RunConfig):
    """A run on energies and forces; the defaults are the papers' loss and model.

    Args:
        train_size: Structures to train on (1,000 or 50,000 in the papers).
        num_interactions: Number of interaction blocks, T (3 in the papers for trajectories).
        schedule: exponential, cosine, sgdr (warm restarts) or constant.
        val_every: Steps between validations.
        patience: Validations without improvement before training stops.
        rho: Weight of energies against forces in the loss, 1/Å² (0.01 in the papers); 0 trains on
            forces alone and fits the constant of energies.
        forces: Train on forces; if not, on energies alone, and forces are tested all the same.
        energy_per_atom: Compare energies per atom, for structures of many sizes.
        offsets: mean (one constant per atom) or dressed (one per element).
        scale: What the network's output is multiplied by: forces (the root mean square of force
            components, times 1 Å), energy (the spread of energies per atom) or one (1 eV).
        unit: In which energies are told, and forces per Å: kcal/mol, eV or meV.
    """

    num_interactions: int = 3
    schedule: str = "cosine"
    val_every: int = 500
    patience: int = 200
    rho: float = 0.01
    forces: bool = True
    energy_per_atom: bool = False
    offsets: str = "mean"
    scale: str = "forces"
    unit: str = "kcal/mol"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choices(
            # A mixed precision would make forces by autograd of rounded numbers.
            precision=("32-true", "64-true"),
            offsets=("mean", "dressed"),
            scale=("forces", "energy", "one"),
            unit=("kcal/mol", "eV", "meV"),
        )
        if self.rho < 0:
            raise ValueError(f"rho must not be negative, got {self.rho}.")


@dataclass
class MD17Config(ForceTrainingConfig):
    """A run on a trajectory of MD17.

    Args:
        molecule: One of MD17's.
        root: Folder of the processed data set.
        raw: The npz file to read, or its folder; by default the original download.
        revised: The revised set, rMD17.
        level: dft, ccsd(t) or ccsd.
        published_split: Number (1 to 5) of a split of rMD17, or 0 for that of the coupled-cluster
            sets: training rows are drawn from its training part, and its test part is the test.
    """

    molecule: str = "ethanol"
    root: str = "data/md17"
    raw: str | None = None
    revised: bool = False
    level: str | None = None
    published_split: int | None = None


@dataclass
class ISO17Config(ForceTrainingConfig):
    """A run on ISO17: 129 isomers of C7O2H10.

    Args:
        scenario: within (other frames of the isomers trained on) or other (other isomers).
        root: Folder of the processed data set.
        raw: The archive, or the folder that it unpacks to.
        train_size: Frames to train on; 0 takes all of the published list.
        val_size: Frames for validation; 0 takes all of the published list.
        unit: In which energies are told, and forces per Å: kcal/mol, eV or meV.
    """

    scenario: str = "within"
    root: str = "data/iso17"
    raw: str | None = None
    train_size: int = 0
    val_size: int = 4_000
    unit: str = "eV"


@dataclass
class TrajectoriesConfig(ForceTrainingConfig):
    """A run on frames of any files that ASE reads, and npz files of sGDML.

    Args:
        paths: Files, or patterns; or the folder of an OnDiskFrames.
        energy_key: Name of the energy in them; by default that of the calculator.
        forces_key: The same of the forces.
        energy_unit: Of the energies; by default eV, or what an npz says.
        offsets: mean (one constant per atom) or dressed (one per element).
        root: Folder for a processed file; by default none is kept.
        in_memory: False keeps the frames on the disk, in root, where there are more than fit.
        unit: In which energies are told, and forces per Å: kcal/mol, eV or meV.
    """

    paths: list[str] | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    energy_unit: str | None = None
    offsets: str = "dressed"
    root: str | None = None
    in_memory: bool = True
    unit: str = "meV"
