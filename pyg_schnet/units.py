"""Units and the factors that lead to them: eV, Å and u, with ASE's time unit.

One eV, one Å and one u (the unified atomic mass unit) are 1; multiply by a constant to come into
these units, divide to leave them. Time follows: its unit is Å sqrt(u / eV), about 10.18 fs.

The numbers are those of ``ase.units`` (CODATA 2014: Mohr, Newell and Taylor, Rev. Mod. Phys. 88,
035009 (2016)), written out so that nothing heavy is imported for them. CODATA 2018 differs in the
ninth digit, which in a total energy of -11000 eV (a QM9 molecule) is 0.1 meV: mix the two for
comparisons of total energies only with that in mind.

>>> round(-40.47893 * HARTREE, 4)   # methane's U0 in QM9, from Hartree to eV
-1101.4878
"""

HARTREE = 27.211386024367243
"""eV; twice the Rydberg energy, m_e e^4 / (4 pi eps0 hbar)^2."""

RYDBERG = 13.605693012183622
"""eV; half a Hartree."""

BOHR = 0.5291772105638411
"""Å; 4 pi eps0 hbar^2 / (m_e e^2)."""

KCAL_PER_MOL = 0.04336410390059322
"""eV per particle; the thermochemical calorie, 4.184 J, over Avogadro's number."""

KJ_PER_MOL = 0.010364269574711572
"""eV per particle; 1000 J over Avogadro's number."""

INVERSE_CM = 0.0001239841973964072
"""eV; the energy h c / cm of one reciprocal centimetre (spectroscopists' wavenumber)."""

DEBYE = 0.20819433442462576
"""e·Å; 1e-21 C m^2/s divided by the speed of light."""

BOLTZMANN = 8.617330337217213e-05
"""eV/K; Boltzmann's constant."""

HBAR = 0.06465415105180661
"""eV times ASE's time unit; the reduced Planck constant."""

FEMTOSECOND = 0.09822694788464063
"""ASE's time unit, Å sqrt(u / eV)."""

GIGAPASCAL = 0.006241509125883258
"""eV/Å^3; pressure and stress."""

BAR = 6.241509125883258e-07
"""eV/Å^3; pressure, 1e5 Pa."""
