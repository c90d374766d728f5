"""What the gallery shows: figures, the commands that make them, and what is seen in them."""

from dataclasses import dataclass

from pyg_schnet.benchmarks.gallery.models import GALLERY, SIZES

_QM9 = "runs/accuracy/qm9-cpu-U0/seed0"
_MP20 = "runs/accuracy/mp20/seed0"
_DTNN = "runs/accuracy/dtnn-qm9-U0-t3/seed0"
_THREE = ",".join(f"{GALLERY}/qm9-small-U0/seed{seed}" for seed in range(3))
_THREE_MP20 = ",".join(f"runs/accuracy/mp20/seed{seed}" for seed in range(3))
_CURVE = ",".join([*(f"runs/accuracy/mp20-of-{size}/seed0" for size in SIZES), _MP20])
_MD17 = ",".join(
    f"md17-{name}"
    for name in (
        *("aspirin", "benzene", "ethanol", "malonaldehyde"),
        *("naphthalene", "salicylic", "toluene", "uracil"),
    )
)
_TRAJECTORIES = ",".join(f"{GALLERY}/ethanol-md-{replica}.extxyz" for replica in range(8))
_GRAPHITE, _DIAMOND = "docs/structures/graphite.extxyz", "docs/structures/diamond.extxyz"


@dataclass(frozen=True)
class Entry:
    """A figure.

    Attributes:
        name: Of its file.
        command: Words after ``pyg-schnet``; ``--out`` is added unless ``made`` says otherwise.
        text: What is seen.
        alt: The same in a few words.
        models: That must be trained, of :data:`~.models.MODELS`.
        before: Commands whose results it needs, likewise without ``pyg-schnet``.
        file: What the command writes that is shown, where its options say so.
    """

    name: str
    command: str
    text: str
    alt: str
    models: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    file: str = ""

    @property
    def made(self) -> str:
        """The file that is shown."""
        return f"{GALLERY}/{self.file or f'{self.name}.png'}"

    @property
    def lines(self) -> list[str]:
        """The commands, as they are typed."""
        out = "" if "--out" in self.command else f" --out {self.made}"
        return [f"pyg-schnet {words}" for words in (*self.before, self.command + out)]


@dataclass(frozen=True)
class Section:
    """Figures of one subject."""

    title: str
    text: str
    entries: tuple[Entry, ...]


_POTENTIALS = Section(
    "Local chemical potential",
    "What a probe atom would contribute at each place: it feels the atoms and is not felt by them.",
    (
        Entry(
            "potential-benzene",
            "analyze chemical-potential --model qm9-U0 --structure C6H6 --probe H,C,N,O --size 9",
            "Benzene in its plane, for four probes. Colours run from the 2 % to the 98 % quantile, "
            "as on the bonds potentials are steep. Within 0.8 Å of an atom they mean nothing.",
            "Chemical potential in the plane of benzene",
        ),
        Entry(
            "surface-benzene",
            "analyze chemical-potential --model qm9-U0 --structure C6H6 --probe H,C,N,O "
            "--where surface",
            "The same where the sum of 1/r² over the atoms is 3.7 Å⁻². All probes would rather be "
            "beside the ring than over it; over its middle carbon fares worst.",
            "Chemical potential on a surface around benzene",
        ),
        Entry(
            "surface-page",
            "analyze chemical-potential --model qm9-U0 --structure C6H6 --probe H,C,N,O "
            f"--where surface --out {GALLERY}/benzene.html",
            "As a page to turn with the mouse, which opens without the net; buttons choose the "
            "probe. The picture is what a headless Chromium shows.",
            "The interactive page in a browser",
            file="benzene.html",
        ),
        Entry(
            "surface-dtnn",
            f"analyze chemical-potential --model {_DTNN} --structure C6H6 --probe H,C,N,O "
            "--where surface",
            "By a DTNN of three interactions, after 5,000 steps on 10,000 molecules: differences "
            "are smaller, and the order of places is another. Where models disagree like this, "
            "the better one is the one with the smaller error.",
            "Chemical potential on a surface around benzene by a DTNN",
            ("dtnn",),
        ),
        Entry(
            "potential-graphite",
            f"analyze chemical-potential --model {_MP20} --structure {_GRAPHITE} --probe C "
            "--normal 0,0,1 --center 0,0,1.677 --size 10",
            "A sheet of graphite by the model of crystals: carbon is drawn to the bonds and pushed "
            "off the middles of the hexagons. The map has the symmetry of the sheet, which nobody "
            "told the model.",
            "Chemical potential in a sheet of graphite",
            ("mp20",),
        ),
        Entry(
            "potential-diamond",
            f"analyze chemical-potential --model {_MP20} --structure {_DIAMOND} --probe C "
            "--normal 1,-1,0 --center 0,0,0 --size 10",
            "Diamond, cut along the zigzag chains of its bonds.",
            "Chemical potential in diamond",
            ("mp20",),
        ),
    ),
)
_FILTERS = Section(
    "Filters",
    "What a model has learned to look for at each distance.",
    (
        Entry(
            "filters",
            "analyze filters --model qm9-U0",
            "All 64 filters of each layer, times the cutoff function. Most of what they tell apart "
            "lies below 2.5 Å, at bonds and second neighbours.",
            "Filters against distance",
        ),
        Entry(
            "filter-cuts",
            "analyze filters --model qm9-U0 --kind cuts",
            "The first six of each layer on cuts of 10 × 10 Å, as in the paper of 2017.",
            "Cuts through filters",
        ),
        Entry(
            "filter-cuts-crystals",
            f"analyze filters --model {_MP20} --kind cuts",
            "Likewise of the model of crystals.",
            "Cuts through filters of a model of crystals",
            ("mp20",),
        ),
        Entry(
            "filters-diamond",
            f"analyze filters --model {_MP20} --kind periodic --structure {_DIAMOND} "
            "--normal 1,-1,0 --layers 0",
            "In a crystal a filter is summed over the images of a neighbour: on the lattice of "
            "diamond, in the plane of the potential above.",
            "Periodic filters on the lattice of diamond",
            ("mp20",),
        ),
        Entry(
            "filters-graphite",
            f"analyze filters --model {_MP20} --kind periodic --structure {_GRAPHITE} --layers 0",
            "The same filters on the lattice of graphite, in a sheet.",
            "Periodic filters on the lattice of graphite",
            ("mp20",),
        ),
        Entry(
            "filters-dtnn",
            f"analyze filters --model {_DTNN}",
            "A DTNN has no filters; what takes their place are the factors of its distances. One "
            "layer, as its interactions share their weights; no cutoff, so they do not end.",
            "Factors of distances of a DTNN",
            ("dtnn",),
        ),
    ),
)
_EMBEDDINGS = Section(
    "Embeddings",
    "What a model has learned of elements, from formation energies alone.",
    (
        Entry(
            "embeddings",
            f"analyze embeddings --model {_MP20}",
            "Principal axes of the 85 embeddings; lines join a group in the order of its periods. "
            "Halogens, chalcogens, alkali metals and lanthanides lie together. Two axes hold a "
            "tenth of the variance: embeddings begin as noise of 128 dimensions, and 1,438 "
            "crystals move them less than the 60,000 of the paper.",
            "Principal components of embeddings",
            ("mp20",),
        ),
    ),
)
_ENERGIES = Section(
    "Energy partition",
    "Only the energy of a structure is trained on. How it is shared out among the atoms is the "
    "model's own doing, and another training may do it otherwise.",
    (
        Entry(
            "partition-qm9",
            f"analyze energy-partition --model {_THREE} --structure qm9:data/qm9 --index ::50",
            "Contributions over every fiftieth molecule of QM9 by three trainings. Their order is "
            "much the same, as the correlations above the panels say; the levels are less so.",
            "Distributions of atomic contributions in QM9",
            ("qm9-again",),
        ),
        Entry(
            "partition-crystals",
            f"analyze energy-partition --model {_THREE_MP20} --structure mp:data/mp20 "
            "--elements O,F,S,Na,Si,Fe",
            "Six elements of the crystals by three trainings: for oxygen and fluorine they agree; "
            "for sodium, which occurs seldom, hardly.",
            "Distributions of atomic contributions in crystals",
            ("mp20",),
        ),
        Entry(
            "rings",
            "analyze ring-stability --model qm9-U0 --structure qm9:data/qm9",
            "Rings of six carbon atoms in QM9, by the sum of what their atoms contribute: the ten "
            "most stable and the ten least. Aromatic rings come first; at the end are cages, where "
            "RDKit draws several bonds over each other.",
            "Most and least stable rings of QM9",
            ("qm9",),
        ),
    ),
)
_SENSITIVITY = Section(
    "Sensitivity",
    "How much the last features of an atom change when another one moves, above the distribution "
    "of distances; every thousandth molecule of QM9.",
    (
        Entry(
            "sensitivity",
            "analyze sensitivity --model qm9-U0 --structure qm9:data/qm9 --index ::1000 "
            "--pairs C-C,C-H,H-H",
            "With a cutoff at 5 Å atoms further away still matter a little, by way of those "
            "between.",
            "Sensitivity against distance",
            ("qm9",),
        ),
        Entry(
            "sensitivity-dtnn",
            f"analyze sensitivity --model {_DTNN} --structure qm9:data/qm9 --index ::1000 "
            "--pairs C-C,C-H,H-H",
            "The DTNN, without a cutoff, listens to all distances alike from 4 Å on.",
            "Sensitivity of a DTNN against distance",
            ("dtnn",),
        ),
    ),
)
_CURVES = Section(
    "Bonds",
    "What happens outside of the data, and why distances are expanded.",
    (
        Entry(
            "dimer",
            f"analyze dimer --model {_MD17} --elements C-H --relative true --window 8",
            "Two atoms, C and H, by the eight models of MD17, none of which has seen a molecule "
            "break: around the bond length they agree on a minimum, further out and further in "
            "they do not, and the spread tells it.",
            "Energy of a C-H dimer by eight models",
        ),
        Entry(
            "h2",
            "analyze h2",
            "The same small network fitted to H2 with Gaussians of the distance and with the "
            "distance itself.",
            "Fits of H2",
        ),
    ),
)
_ALCHEMY = Section(
    "Alchemical pathways",
    "Benzene on its way to heterocycles: embeddings interpolated, hydrogens faded out. Both ends "
    "are energies of real molecules.",
    (
        Entry(
            "alchemy",
            "analyze alchemy --model qm9-U0 --structure C6H6 --names pyridine,pyrazine,s-triazine",
            "With the positions of benzene. A nitrogen is worth 440 eV; from the line between its "
            "ends a pathway departs by some tenths of an eV.",
            "Alchemical pathways from benzene",
        ),
        Entry(
            "alchemy-positions",
            "analyze alchemy --model qm9-U0 --structure C6H6 --sites 0 --end C5H5N "
            "--names pyridine",
            "To pyridine with fixed and with interpolated positions.",
            "Pathways with fixed and interpolated positions",
        ),
    ),
)
_ERRORS = Section(
    "Errors",
    "What a run leaves in its folder, looked at from several sides.",
    (
        Entry(
            "errors-histogram",
            f"analyze errors --run {_QM9}",
            "10,000 molecules of QM9 that were not trained on. A table of the worst is written "
            "beside it.",
            "Histogram of errors",
            ("qm9",),
        ),
        Entry(
            "errors-outliers",
            f"analyze errors --run {_QM9} --kind outliers --structure qm9:data/qm9",
            "The worst of them: strained rings, cages, zwitterions.",
            "Molecules with the largest errors",
            ("qm9",),
        ),
        Entry(
            "errors-size",
            f"analyze errors --run {_QM9} --kind size --structure qm9:data/qm9",
            "By number of atoms: small molecules are rare in QM9, and large ones, which have many "
            "hydrogens, are the easiest.",
            "Error against number of atoms",
            ("qm9",),
        ),
        Entry(
            "errors-isomers",
            f"analyze errors --run {_QM9} --kind isomers --formula C7H10O2 "
            "--structure qm9:data/qm9",
            "Isomers C7O2H10 among them, in order by Kendall's tau.",
            "Ranking of isomers",
            ("qm9",),
        ),
        Entry(
            "errors-curve",
            f"analyze errors --kind curve --run {_CURVE}",
            "Crystals: the error against the number that the model was trained on.",
            "Learning curve of crystals",
            ("mp20", *(f"mp20-{size}" for size in SIZES)),
        ),
        Entry(
            "report",
            f"report {_QM9} --output {GALLERY}/report.html",
            "All that applies to a run on one page, without scripts, that opens anywhere: errors "
            "beside the paper's, curves, the worst structures, filters, options, how to cite.",
            "The report of a run in a browser",
            ("qm9",),
            file="report.html",
        ),
    ),
)
_SPECTRA = Section(
    "Vibrations",
    "Ethanol by `md17-ethanol`.",
    (
        Entry(
            "spectrum",
            f"analyze spectrum --model md17-ethanol --correlation 2 --trajectory {_TRAJECTORIES}",
            "The velocity autocorrelation of eight trajectories of 20 ps at constant energy, above "
            "harmonic lines of the same model for the trans conformer, where they begin. In five "
            "of them the hydroxyl group turns, which splits and broadens its bands: the line of "
            "O–H of the gauche conformer is 25 cm⁻¹ lower. The time step moves C–H up by 10 and "
            "O–H by 20 cm⁻¹; what is left of it below the lines is anharmonic.",
            "Vibrational spectrum of ethanol",
            before=(
                "relax docs/structures/ethanol.extxyz --model md17-ethanol --fmax 0.001 "
                f"--output {GALLERY}/ethanol.extxyz",
                f"md {GALLERY}/ethanol.extxyz --model md17-ethanol --time 20 --temperature 600 "
                f"--every 6 --replicas 8 --report false --output {GALLERY}/ethanol-md.extxyz",
            ),
        ),
        Entry(
            "modes",
            f"vibrations {GALLERY}/ethanol.extxyz --model md17-ethanol "
            f"--output {GALLERY}/modes.extxyz",
            "The harmonic frequencies alone.",
            "Harmonic frequencies of ethanol",
            file="modes.png",
        ),
    ),
)

SECTIONS = (
    _POTENTIALS,
    _FILTERS,
    _EMBEDDINGS,
    _ENERGIES,
    _SENSITIVITY,
    _CURVES,
    _ALCHEMY,
    _ERRORS,
    _SPECTRA,
)
"""In the order of the page."""

NOT_MEANT = (
    (
        "surface of the chemical potential",
        "crystals: the sum of 1/r² over a lattice has no end; planes and cells are",
    ),
    (
        "chemical potential of a probe",
        "elements that the model was not trained on, such as N by `md17-benzene`; models whose "
        "head has no contributions of atoms, such as those of dipole moments",
    ),
    ("embeddings", "models of QM9 and MD17: with three to five elements there is nothing to order"),
    (
        "energy partition, ring stability",
        "models of intensive properties of molecules, and heads that are no sum or mean",
    ),
    (
        "dimers",
        "models of QM9, which have seen no stretched bond: curves agree and mean nothing; and "
        "models of formation energies for each atom",
    ),
    (
        "alchemy",
        "crystals; and models of one molecule such as MD17's, which have seen neither the elements "
        "nor the rings at the other end",
    ),
    (
        "spectra",
        "models of energies alone or of energies for each atom, which have no useful forces",
    ),
    ("periodic filters", "molecules"),
)
"""Analyses, and what they say nothing about."""
