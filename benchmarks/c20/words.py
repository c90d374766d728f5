"""What the study found, in the blocks of its report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyg_schnet.benchmarks.c20.options import TRAINED_AT
from pyg_schnet.benchmarks.c20.report import Block, Heading, Paragraph, Picture, Table
from pyg_schnet.benchmarks.c20.stages import Result
from pyg_schnet.units import KCAL_PER_MOL

TITLE = "The fullerene C20: a SchNet in place of its reference method"
_KINDS = {"trajectory": "frames of the trajectory", "displaced": "displaced structures"}
_COLUMNS = ("reference_per_cm", "model_per_cm", "percent", "overlap")
SOURCE = "Schütt et al., J. Chem. Phys. 148, 241722 (2018)"


def tell(found: Mapping[str, Any], pictures: Mapping[str, Path]) -> list[Block]:
    """The report.

    Args:
        found: Results by stage.
        pictures: Figures by name.
    """
    reference = found["trajectory"]["method"]
    return [
        Paragraph(
            f"The study of C20 in {SOURCE}, done anew. The paper's reference is density functional "
            f"theory (PBE with TS); here it is {reference}, so the two surfaces, their minima and "
            "digits differ. What can be compared is how closely the model follows its own "
            "reference."
        ),
        *_data(found["trajectory"], found.get("displaced"), found.get("along_modes")),
        *_models(found["models"], found["trained"], found.get("polished")),
        *_polish(found.get("polished"), found.get("trained_deviations")),
        *_minimum(found["deviations"], found["model"], found["reference"], reference),
        *_modes(found["deviations"], found["model"], found["reference"], pictures),
        *_dynamics(found, pictures),
        *_cost(found["cost"], reference),
    ]


def _data(data: Result, displaced: Result | None, along: Result | None) -> list[Block]:
    force = data["mean_force_component_eV_per_angstrom"] / KCAL_PER_MOL
    blocks: list[Block] = [
        Heading("Reference data"),
        Paragraph(
            f"{data['frames']:,} frames of {data['method']} at {data['temperature_K']:g} K, one "
            f"every {data['interval_fs']:g} fs. The energy spreads by "
            f"{data['energy_spread_eV'] / KCAL_PER_MOL:.2f} kcal/mol, a component of the forces is "
            f"{force:.1f} kcal/mol/Å on average."
        ),
    ]
    if displaced is not None:
        force = displaced["mean_force_component_eV_per_angstrom"] / KCAL_PER_MOL
        also = (
            f"Beside them, which the paper does not have, {displaced['displaced']:,} structures "
            "displaced along the normal modes of the reference by thermal amounts, of temperatures "
            f"up to {displaced['highest_K']:g} K whose square roots are drawn evenly (a component "
            f"of the forces is {force:.1f} kcal/mol/Å on average)."
        )
        blocks.append(Paragraph(also))
    if along is not None:
        one = (
            f"To polish the model on, {along['along_modes']:,} structures displaced along one mode "
            f"each, drawn evenly, of temperatures from {along['lowest_K']:g} to "
            f"{along['highest_K']:g} K whose logarithms are drawn evenly."
        )
        blocks.append(Paragraph(one))
    return blocks


def _models(models: list[Result], trained: Result, polished: Result | None) -> list[Block]:
    used_for = "polished below" if polished else "used below"
    rows = [
        [
            *(str(one[name]) for name in ("num_interactions", "num_filters")),
            f"{one['rho']:g}",
            *(f"{one[name]:.4f}" for name in ("energy", "forces", "val_forces")),
            f"{one['steps']:,}",
            f"{one['training_seconds'] / 60:.0f}",
            used_for if one is trained else "",
        ]
        for one in (*models, trained)
    ]
    head = ["T", "F", "ρ", "energy", "forces", "validation forces", "steps", "minutes", ""]
    used = trained["options"]
    how = (
        "Several are trained for a short time, and the one with the smallest error of forces in "
        "validation for long. "
        if models
        else ""
    )
    return [
        Heading("Model selection"),
        Paragraph(
            "T interaction blocks, F features and filters, weight ρ of energies in the loss (table "
            f"V of the paper). {how}Mean absolute errors of the test set, one in ten structures of "
            f"all, of models trained on {trained['n_train']:,}, in kcal/mol and kcal/mol/Å. "
            f"Batches of {used['batch_size']}, Adam from {used['lr']:g}, annealed by a "
            f"{used['schedule']}, averaged weights (EMA {used['ema']:g}), "
            f"{used['num_gaussians']} Gaussians, cutoff {used['cutoff']:g} Å with the cutoff "
            f"function {used['cutoff_fn']!r}, at most {used['max_steps']:,} steps. Of the last "
            f"model the error of forces is {_by_kind(trained)}."
        ),
        Table(head, rows),
    ]


def _by_kind(of: Result) -> str:
    return " and ".join(
        f"{error:.3f} kcal/mol/Å in {_KINDS[kind]}" for kind, error in of["forces_by_kind"].items()
    )


def _polish(polished: Result | None, before: Result | None) -> list[Block]:
    if polished is None or before is None:
        return []
    return [
        Heading("Polish"),
        Paragraph(
            "Squared errors are made up of those of hot structures, and say little of the "
            "curvature at the minimum. So the model is trained on relative errors of forces at "
            f"last, on the {polished['along_modes']:,} structures displaced along one mode each "
            f"and {polished['others']:,} of the training set, by L-BFGS in float64 with all of "
            f"them in each of {polished['steps']} steps ({polished['seconds'] / 60:.0f} minutes). "
            "The root mean square of relative errors falls "
            f"from {100 * polished['loss_before'] ** 0.5:.2f} % to "
            f"{100 * polished['loss_after'] ** 0.5:.2f} %, the largest deviation of the "
            f"frequencies below from {before['largest_percent']:.2f} % to the one told there. In "
            f"the test set the errors are {polished['energy']:.4f} kcal/mol and "
            f"{polished['forces']:.4f} kcal/mol/Å: {_by_kind(polished)}."
        ),
    ]


def _minimum(off: Result, model: Result, known: Result, reference: str) -> list[Block]:
    def bonds(of: Result) -> str:
        return ", ".join(f"{s['bonds']} × {s['length']:.3f}" for s in of["shells"])

    rows = [
        [name, bonds(of), f"{of['largest_force_kcal_per_mol_angstrom']:.1e}", str(of["steps"])]
        for name, of in (("model", model), (reference, known))
    ]
    return [
        Heading("Minimum"),
        Paragraph(
            f"Of {reference}, the lowest of {len(known['minima_eV'])} relaxations of distorted "
            "cages; of the model, what a relaxation from there ends in. Bonds in Å, those of like "
            "length together; the paper tells three lengths. The largest force is in kcal/mol/Å. "
            f"Bonds of the two differ by {off['largest_bond_difference_angstrom']:.0e} Å at most. "
            + _lower(model)
        ),
        Table(["", "bonds", "largest force", "steps"], rows),
    ]


def _lower(model: Result) -> str:
    """Whether the model has a minimum below that of the reference's kind."""
    below = 1000 * (model["energy_eV"] - min(model["minima_eV"], default=model["energy_eV"]))
    if below < 0.01:
        return "Relaxed from distorted cages, the model finds none that is lower."
    return (
        f"Relaxed from distorted cages, the model finds another one too, {below:.2f} meV lower: "
        "its errors are of that size."
    )


def _modes(off: Result, model: Result, known: Result, pictures: Mapping[str, Path]) -> list[Block]:
    imaginary = model["num_imaginary"] + known["num_imaginary"]
    return [
        Heading("Normal modes"),
        Paragraph(
            f"{off['modes']} modes of each method at its own minimum, each compared with the one "
            "whose displacements are most like. Their overlap is 1 at best; of modes of one "
            "frequency any two directions serve, which makes it smaller. "
            f"The largest deviation is {off['largest_percent']:.2f} %, the mean "
            f"{off['mean_percent']:.2f} %; in cm⁻¹ at most {off['largest_per_cm']:.1f} and "
            f"{off['mean_per_cm']:.1f} on average. Of all modes "
            f"{off['within_1_percent']} are within 1 %, which the paper finds for all of them, and "
            f"{off['within_2_percent']} within 2 %. In ascending order the largest deviation would "
            f"be {off['largest_percent_in_order']:.2f} %."
            + (f" {imaginary} frequencies are imaginary." if imaginary else "")
        ),
        Picture(pictures["modes"], "Frequencies, and how far the model's are off"),
        Table(
            ["mode", "reference / cm⁻¹", "model / cm⁻¹", "%", "overlap"],
            [
                [str(k + 1), f"{theirs:.1f}", f"{ours:.1f}", f"{percent:+.2f}", f"{overlap:.3f}"]
                for k, (theirs, ours, percent, overlap) in enumerate(
                    zip(*(off[name] for name in _COLUMNS), strict=True)
                )
            ],
        ),
    ]


def _dynamics(found: Mapping[str, Any], pictures: Mapping[str, Path]) -> list[Block]:
    classical, quantum = found["classical"], found.get("path_integrals")
    runs = [
        (f"classical, {classical['wanted_K']:g} K", classical),
        (f"{quantum['beads']} beads, {quantum['wanted_K']:g} K", quantum) if quantum else None,
        (f"classical, {TRAINED_AT:g} K", found["trained_at"]),
        (f"reference, {TRAINED_AT:g} K", found["sampled"]),
    ]
    rows = []
    for name, one in filter(None, runs):
        values = []
        for quantity in ("nearest_neighbor", "diameter"):
            values += [f"{one[quantity][of]:.4f}" for of in ("mean", "deviation")]
        copies = f"{one['replicas']} × " if one.get("replicas", 1) > 1 else ""
        time = f"{copies}{one['time_ps']:g}"
        rows.append([name, f"{one['temperature_K']:.0f}", time, *values])
    said = "The quantum motion of the nuclei widens the distributions."
    if quantum:
        said += (
            f" With {quantum['beads']} beads the kinetic energy is "
            f"{quantum['kinetic_energy_eV']:.3f} ± {quantum['kinetic_energy_error_eV']:.3f} eV "
            f"({quantum['classical_kinetic_energy_eV']:.3f} eV classically); i-PI "
            f"{quantum['ipi']}."
        )
    else:
        said += f" Path integrals were left out: {found['no_path_integrals']}"
    head = ["", "K", "ps", "nearest neighbour", "± Å", "diameter", "± Å"]
    return [
        Heading("Dynamics"),
        Paragraph(said),
        Table(head, rows),
        Picture(pictures["distributions"], "Distances and vibrations (figure 8 of the paper)"),
    ]


def _cost(cost: Result, reference: str) -> list[Block]:
    facts = cost["facts"]
    rows = [
        ["model", f"{cost['model_ms']:.3f}"],
        [f"model, {cost['beads']} beads in one batch", f"{cost['beads_ms']:.3f}"],
        [reference, f"{cost['reference_ms']:.1f}"],
    ]
    return [
        Heading("Cost of a step"),
        Paragraph(
            f"Milliseconds of one step of dynamics, in turn (threads: {cost['threads']}, cores: "
            f"{facts['cores']}, {facts['device']}). The model is "
            f"{cost['times_faster']:,.0f} times faster than the reference."
        ),
        Table(["", "ms"], rows),
    ]
