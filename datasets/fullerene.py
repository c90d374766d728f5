"""C20: molecular dynamics of the smallest fullerene, made on this computer."""

from collections.abc import Callable
from pathlib import Path

from torch_geometric.data import Data

from pyg_schnet.datasets.dynamics import read_state, state_path
from pyg_schnet.datasets.generate import generate
from pyg_schnet.datasets.trajectories import Trajectories


class C20(Trajectories):
    """Frames of molecular dynamics of the fullerene C20, with energies and forces of GFN2-xTB.

    Per frame (a :class:`torch_geometric.data.Data` of 20 atoms): ``z`` (20,) int64, ``pos``
    (20, 3) float32 in Å, ``energy`` (1,) float64 in eV, ``forces`` (20, 3) float32 in eV/Å, ``idx``
    (1,) int64, the number of the frame.

    The paper trains on a trajectory of C20 from density functional theory, at 500 K with steps of
    1 fs, which this package does not have. This one is made with
    :func:`~pyg_schnet.datasets.generate.generate` in its place, at another level of theory: errors
    on it compare models with each other, not with the paper's digits.

    The trajectory is kept in ``root/raw``; carried over from another computer it is read, and
    tblite is not needed. More ``frames`` extend it; fewer are the first of it.

    Schütt et al., J. Chem. Phys. 148, 241722 (2018).

    Args:
        root: Folder for the trajectory and what is processed of it.
        frames: Number of frames.
        temperature: K.
        every: Steps of 1 fs from one frame to the next.
        equilibration: fs before the first frame counts.
        thermostat: ``"nose-hoover"`` or ``"langevin"``.
        seed: Of the velocities, and of the noise.
        transform: Applied to each frame at every access.
        pre_transform: Applied once, before the frames are stored.
        pre_filter: Only frames for which this is true are stored.
        force_reload: Process anew, though there is a processed file.

    Raises:
        ModuleNotFoundError: if the trajectory is not there, or too short, and tblite is not
            installed.
        ValueError: if an argument is out of range, or the trajectory was made with others.

    >>> C20.path("data/c20", temperature=300).as_posix()
    'data/c20/raw/c20_300K_every10_nose-hoover_seed0.extxyz'
    """

    def __init__(
        self,
        root: str | Path,
        frames: int = 2000,
        temperature: float = 500.0,
        every: int = 10,
        equilibration: float = 2000.0,
        thermostat: str = "nose-hoover",
        seed: int = 0,
        transform: Callable[[Data], Data] | None = None,
        pre_transform: Callable[[Data], Data] | None = None,
        pre_filter: Callable[[Data], bool] | None = None,
        force_reload: bool = False,
    ) -> None:
        path = self.path(root, temperature, every, thermostat, seed)
        if not path.exists() or _too_short(path, frames):
            generate(
                "C20",
                path,
                frames,
                temperature,
                every=every,
                equilibration=equilibration,
                thermostat=thermostat,
                seed=seed,
            )
        super().__init__(
            path,
            root=root,
            transform=transform,
            pre_transform=pre_transform,
            pre_filter=pre_filter,
            force_reload=force_reload,
        )
        if pre_filter is None and len(self) < frames:
            raise ValueError(
                f"{path} has {len(self)} frames and frames={frames} are asked for: bring its "
                f"{state_path(path).name} along to extend it, or delete it to make it anew"
            )
        first = (self._data.idx < frames).nonzero().view(-1).tolist()
        if len(first) < len(self):
            self._indices = first

    @staticmethod
    def path(
        root: str | Path,
        temperature: float = 500.0,
        every: int = 10,
        thermostat: str = "nose-hoover",
        seed: int = 0,
    ) -> Path:
        """Where the trajectory of these arguments is kept.

        Args:
            root: As for the class, like the others.
            temperature: K.
            every: Steps from one frame to the next.
            thermostat: Its name.
            seed: Of the velocities.
        """
        name = f"c20_{temperature:g}K_every{every}_{thermostat}_seed{seed}.extxyz"
        return Path(root).expanduser() / "raw" / name


def _too_short(path: Path, frames: int) -> bool:
    """Whether it can be extended and has to be."""
    return state_path(path).exists() and int(read_state(path)["frames"]) < frames
