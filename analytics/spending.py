"""How much of alpha may be used up by when: the Lan-DeMets spending functions.

Lan and DeMets (1983), "Discrete sequential boundaries for clinical trials": a function of the information fraction
t in [0, 1] with f(0) = 0 and f(1) = alpha, fixed before the first look. Looks may then come when they like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from scipy import special

from analytics.results import StatisticError

Kind = Literal["obrien-fleming", "pocock", "power", "hwang-shih-decani"]

_KINDS: Final = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Spending:
    """One spending function by name.

    - `obrien-fleming`: 2 - 2Φ(z(alpha / 2) / √t), hardly anything early (Lan and DeMets 1983);
    - `pocock`: alpha·log(1 + (e - 1)t), nearly evenly (Lan and DeMets 1983);
    - `power`: alpha·t^parameter, parameter > 0 (Kim and DeMets 1987);
    - `hwang-shih-decani`: alpha·(1 - e^(-parameter·t)) / (1 - e^(-parameter)), alpha·t at parameter 0 (Hwang, Shih,
      DeCani 1990). About -4 is like O'Brien-Fleming, 1 like Pocock.

    Raises `StatisticError` for an unknown name, a missing or a needless parameter.
    """

    kind: Kind = "obrien-fleming"
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise StatisticError(f"spending must be one of {', '.join(_KINDS)}, not {self.kind!r}")
        if self.kind in ("obrien-fleming", "pocock"):
            if self.parameter is not None:
                raise StatisticError(f"spending {self.kind} takes no parameter")
        elif self.parameter is None or not math.isfinite(self.parameter):
            raise StatisticError(f"spending {self.kind} needs a parameter")
        elif self.kind == "power" and self.parameter <= 0:
            raise StatisticError(f"spending power needs a parameter above 0, not {self.parameter}")

    @property
    def name(self) -> str:
        """For people: `power 1.5`."""
        return self.kind if self.parameter is None else f"{self.kind} {self.parameter:g}"

    def spent(self, fraction: float, alpha: float) -> float:
        """Cumulative error spent at an information fraction; all of alpha from 1 on. Raises for a negative one."""
        if not fraction >= 0:
            raise StatisticError(f"an information fraction cannot be {fraction}")
        if fraction >= 1:
            return alpha
        if fraction == 0:
            return 0.0
        if self.kind == "obrien-fleming":
            return float(2 * special.ndtr(special.ndtri(alpha / 2) / math.sqrt(fraction)))
        if self.kind == "pocock":
            return alpha * math.log1p((math.e - 1) * fraction)
        assert self.parameter is not None  # noqa: S101 - checked in __post_init__
        if self.kind == "power":
            return float(alpha * fraction**self.parameter)
        if self.parameter == 0:
            return alpha * fraction
        if self.parameter < -700:
            raise StatisticError(f"spending hwang-shih-decani cannot take the parameter {self.parameter}")
        return alpha * math.expm1(-self.parameter * fraction) / math.expm1(-self.parameter)
