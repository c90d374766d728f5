"""Options of a training run: those that every run has, and those of QM9."""

import re
from dataclasses import dataclass


@dataclass
class RunConfig:
    """What every run is defined by, whatever it learns.

    Args:
        output: Folder of the run; by default runs/DATASET-TARGET.
        train_size: Structures to train on.
        val_size: Structures for validation.
        test_size: Structures for test; by default all others.
        split_seed: Seed of the split.
        split_file: An npz with train, val and test rows to use instead.
        model: schnet, or dtnn: its predecessor, whose one interaction acts T times. It has the
            atomwise head only, no filters to share or to tabulate, and divides by no number.
        preset: A SchNet by name (neurips-2017, jcp-2018, chapter-2020, schnetpack, pyg), or dtnn
            (30 features, 60 factors, T=3, all pairs, Gaussians every 0.2 Å from -1 to 20 Å); the
            model options below are then not used, and for another T are spelled out.
        hidden_channels: Features of an atom.
        num_filters: Features while convolving, of a SchNet.
        num_factors: Rank of the interaction tensor, of a DTNN.
        num_interactions: Number of interaction blocks, T; of a DTNN of passes.
        num_gaussians: Size of the radial basis, from 0 to the cutoff; of a DTNN from -1 Å.
        cutoff: Å.
        cutoff_fn: cosine, hard or none (all pairs).
        filter_activation: linear (SchNetPack, PyG) or ssp (the papers' code), of a SchNet.
        normalize: neighbors (divide each convolution by the number of neighbours) or none.
        filters: exact (networks on every edge), tabulated, or auto.
        shared_filters: One filter network for all interaction blocks.
        batch_size: Structures in a training batch; several processes share them.
        accumulate_grad_batches: Batches whose gradients are averaged for one step.
        eval_batch_size: Structures in a validation or test batch.
        optimizer: adam, or sgd (stochastic gradient descent).
        momentum: Of sgd.
        lr: Initial learning rate.
        schedule: exponential, cosine, sgdr (warm restarts) or constant.
        min_lr: Final learning rate of cosine and sgdr.
        decay: Factor of the exponential schedule.
        decay_steps: Steps in which it acts once.
        restart_steps: Steps between warm restarts.
        ema: Decay of the moving average of weights that is validated, tested and kept.
        gradient_clip: Largest norm of the gradient; 0 for no limit.
        precision: 32-true, 64-true, bf16-mixed or 16-mixed.
        max_steps: Steps to train at most.
        max_time: Time to train at most, such as 90s, 8m, 1.5h or 01:30:00.
        val_every: Steps between validations.
        patience: Validations without improvement before training stops.
        log_every: Steps between two lines of the log.
        seed: Seed of weights and batches.
        accelerator: auto, cpu or gpu.
        devices: Devices (processes) to use on each machine; those that torchrun has started come
            first.
        num_nodes: Machines.
        strategy: auto (ddp where there are several processes) or ddp.
        tensorboard: Write TensorBoard logs beside the CSV.

    Raises:
        ValueError: If a number or a choice cannot be.
    """

    output: str | None = None
    train_size: int = 1_000
    val_size: int = 1_000
    test_size: int | None = None
    split_seed: int = 0
    split_file: str | None = None
    model: str = "schnet"
    preset: str | None = None
    hidden_channels: int = 64
    num_filters: int = 64
    num_factors: int = 60
    num_interactions: int = 6
    num_gaussians: int = 25
    cutoff: float = 5.0
    cutoff_fn: str = "cosine"
    filter_activation: str = "linear"
    normalize: str = "none"
    filters: str = "auto"
    shared_filters: bool = False
    batch_size: int = 32
    accumulate_grad_batches: int = 1
    eval_batch_size: int = 256
    optimizer: str = "adam"
    momentum: float = 0.9
    lr: float = 1e-3
    schedule: str = "exponential"
    min_lr: float = 0.0
    decay: float = 0.96
    decay_steps: int = 100_000
    restart_steps: int = 50_000
    ema: float = 0.99
    gradient_clip: float = 0.0
    precision: str = "32-true"
    max_steps: int = 3_000_000
    max_time: str | None = None
    val_every: int = 5_000
    patience: int = 50
    log_every: int = 100
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        self._check_choices(
            precision=("32-true", "64-true", "bf16-mixed", "16-mixed"),
            normalize=("none", "neighbors"),
            model=("schnet", "dtnn"),
            optimizer=("adam", "sgd"),
            strategy=("auto", "ddp"),
        )
        if self.preset == "dtnn":
            self.model = "dtnn"
        elif self.preset is not None and self.model == "dtnn":
            raise ValueError(
                f"preset={self.preset!r} is a SchNet, but model='dtnn'; use preset='dtnn', or none "
                "and the model options."
            )
        if self.model == "dtnn":
            self._check_dtnn()
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}.")
        for name in (
            *("batch_size", "eval_batch_size", "max_steps", "val_every", "log_every"),
            *("accumulate_grad_batches", "devices", "num_nodes"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}.")
        seconds(self.max_time)

    def _check_dtnn(self) -> None:
        """Refuse what would change a SchNet and cannot change a DTNN."""
        for name, known in {
            "filter_activation": ("linear",),
            "normalize": ("none",),
            "filters": ("auto", "exact"),
            "shared_filters": (False,),
        }.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"{name}={value!r} is an option of a SchNet, not of a DTNN; leave it out or "
                    "use model='schnet'."
                )

    def _check_choices(self, **choices: tuple[str, ...]) -> None:
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}."
                )


@dataclass
class TrainingConfig(RunConfig):
    """A run on a property of QM9; the defaults are the papers' protocol.

    Args:
        target: Property to learn, or several at once with commas between; energies in eV.
        root: Folder of the processed data set.
        raw: Raw folder or archive to read the data set from; by default the installed package or
            the original download.
        train_size: Molecules to train on (110,000: J. Chem. Phys. 2018).
        val_size: Molecules for validation (1,000 in the paper of 2017).
        head: How atoms become the property: atomwise (sum or mean, as the papers), dipole,
            spatial_extent, polarizability, softmax, set2set; or auto by target: the head that was
            made for it, of a DTNN the atomwise one.
        readout: Of the atomwise head: add (extensive), mean (intensive), or auto by target.
        offsets: dressed (regression on composition), atomref (single atoms, as the papers) or mean.
        loss: mse (as the papers) or mae.
    """

    target: str = "U0"
    root: str = "data/qm9"
    raw: str | None = None
    train_size: int = 110_000
    val_size: int = 10_000
    head: str = "auto"
    readout: str = "auto"
    offsets: str = "dressed"
    loss: str = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choices(
            loss=("mse", "mae"),
            readout=("auto", "add", "mean"),
            head=(
                "auto",
                "atomwise",
                "dipole",
                "spatial_extent",
                "polarizability",
                "softmax",
                "set2set",
            ),
        )
        if self.model == "dtnn" and self.head not in ("auto", "atomwise"):
            raise ValueError(
                f"head={self.head!r} needs a SchNet; a DTNN has the head 'atomwise' only."
            )


def seconds(text: str | None) -> float | None:
    """A time such as "90s", "8m", "1.5h", "00:08:00" or "480" in seconds.

    Args:
        text: The time, or None for no limit.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> seconds("8m"), seconds("01:30:00")
        (480.0, 5400.0)
    """
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smhd]?)", text.strip()):
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if match := re.fullmatch(r"(\d+):(\d\d):(\d\d)", text.strip()):
        return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + int(match[3])
    raise ValueError(f"max_time must look like 90s, 8m, 1.5h or 01:30:00, got {text!r}.")
