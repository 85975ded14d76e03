"""Grams of CO2 equivalents of joules: kWh x PUE x intensity of the grid."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from zoo.engine.energy.counters import KWH

WORLD = 475.0
"""Grams per kWh, mean of the world (IEA, Global Energy & CO2 Status Report 2019)."""
TABLE = "Our World in Data by codecarbon 3.3.2, 2023 where no other year is given"
COUNTRIES: dict[str, tuple[str, float]] = {
    "ARG": ("Argentina", 354.1),
    "AUS": ("Australia", 548.7),
    "AUT": ("Austria", 110.8),
    "BEL": ("Belgium", 138.1),
    "BRA": ("Brazil", 98.3),
    "CAN": ("Canada", 170.0),
    "CHE": ("Switzerland", 34.8),
    "CHN": ("China", 582.3),
    "CZE": ("Czechia", 449.7),
    "DEU": ("Germany", 381.0),
    "DNK": ("Denmark", 151.7),
    "ESP": ("Spain", 174.1),
    "FIN": ("Finland", 79.2),
    "FRA": ("France", 56.0),
    "GBR": ("United Kingdom", 237.6),
    "GRC": ("Greece", 336.6),
    "IDN": ("Indonesia (2022)", 675.9),
    "IND": ("India", 713.4),
    "IRL": ("Ireland", 290.8),
    "ISL": ("Iceland (2022)", 27.7),
    "ISR": ("Israel (2022)", 582.9),
    "ITA": ("Italy", 330.7),
    "JPN": ("Japan", 485.4),
    "KOR": ("South Korea", 430.6),
    "MEX": ("Mexico", 507.2),
    "NLD": ("Netherlands", 267.6),
    "NOR": ("Norway", 30.1),
    "NZL": ("New Zealand", 112.8),
    "POL": ("Poland", 661.9),
    "PRT": ("Portugal", 165.6),
    "SGP": ("Singapore", 470.8),
    "SWE": ("Sweden", 40.7),
    "TUR": ("Turkey", 464.6),
    "TWN": ("Taiwan", 642.4),
    "USA": ("United States", 369.5),
    "ZAF": ("South Africa", 707.7),
}
"""ISO code -> name and grams per kWh, see :data:`TABLE`."""


@dataclass(frozen=True)
class Carbon:
    """The factors between joules and grams.

    Attributes:
        pue: joules that a computing centre takes for each that a computer takes.
        intensity: grams per kWh.
        country: which, in words.
        source: of the intensity.
    """

    pue: float
    intensity: float
    country: str
    source: str

    def grams(self, joules: float) -> float:
        """CO2 equivalents."""
        return joules / KWH * self.pue * self.intensity

    @property
    def text(self) -> str:
        """The factors in a few words."""
        return f"{self.country} {self.intensity:g} g/kWh, PUE {self.pue:g}"


def carbon(pue: float = 1.0, intensity: float | None = None, country: str | None = None) -> Carbon:
    """Factors of a place; ``intensity`` wins over that of the ``country``, the world's mean without both.

    Raises:
        ValueError: for a country that the table lacks, with near ones.
    """
    code = (country or "").upper()
    if code and code not in COUNTRIES and intensity is None:
        names = {name.casefold(): key for key, (name, _) in COUNTRIES.items()}
        found = names.get(code.casefold()) or next(iter(difflib.get_close_matches(code, COUNTRIES, 1)), None)
        hint = f"did you mean {found}" if found else f"it has {', '.join(COUNTRIES)}"
        raise ValueError(
            f"energy.country {country!r} is not in the table of ISO codes, {hint}; or give energy.intensity"
        )
    name = COUNTRIES[code][0] if code in COUNTRIES else country
    if intensity is not None:
        return Carbon(pue, intensity, name or "given", "energy.intensity")
    if code:
        return Carbon(pue, COUNTRIES[code][1], str(name), TABLE)
    return Carbon(pue, WORLD, "world mean", "IEA 2019")
