"""Regularisation schemes: what they are, what they are called, and the questions that they answer in pairs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import inf
from numbers import Integral
from typing import Any, NamedTuple

from sk_bnreg.engine.normalisation import NORMALISATIONS, Kind
from sk_bnreg.engine.roles import l2_by_role, lacking_roles
from sk_bnreg.estimators.checks import is_number

_PENALTIES = {"none": "", "weights": "l2", "weights+gamma+beta": "l2+gamma+beta", "all": "l2+all"}


def scheme_name(batch_norm: Kind, l2_targets: str | tuple[str, ...], l2_mode: str = "decoupled") -> str:
    """Name a scheme by what it does; schemes of one name train the same networks.

    Examples
    --------
    >>> from sk_bnreg.study.schemes import scheme_name
    >>> scheme_name(False, "weights+gamma+beta"), scheme_name(True, "none", "loss"), scheme_name(True, ("gamma",))
    ('l2', 'bn', 'bn+l2 on gamma')
    """
    roles = _roles(batch_norm, l2_targets)
    known = {_roles(batch_norm, targets): name for targets, name in reversed(_PENALTIES.items())}
    penalty = known.get(roles, f"l2 on {', '.join(sorted(roles))}")
    normalisation = NORMALISATIONS[batch_norm]
    name = "+".join(filter(None, (normalisation.short_name if normalisation else "", penalty))) or "plain"
    return f"{name} (loss)" if roles and l2_mode == "loss" else name


def _roles(batch_norm: Kind, l2_targets: str | tuple[str, ...]) -> frozenset[str]:
    """Return the roles that are penalised and there."""
    absent = lacking_roles(batch_norm=batch_norm)
    return frozenset(role for role, l2 in l2_by_role(1.0, l2_targets).items() if l2 and role not in absent)


def _factorial() -> dict[str, dict[str, Any]]:
    """Return batch_norm x l2_targets x l2_mode, each kind of network once."""
    schemes: dict[str, dict[str, Any]] = {}
    for mode, batch_norm, targets in product(("decoupled", "loss"), (False, True), _PENALTIES):
        params = {"batch_norm": batch_norm, "l2_targets": targets} | ({"l2_mode": mode} if mode == "loss" else {})
        schemes.setdefault(scheme_name(batch_norm, targets, mode), params)
    return schemes


TUNED = "tuned"  # a scheme's `dropout` whose rate is tuned
SCHEMES = _factorial()  # where l2_mode is not named, the estimator's holds
SCHEMES |= {  # the four corners of batch norm x L2, with dropout
    f"{name}+dropout".removeprefix("plain+"): SCHEMES[name] | {"dropout": TUNED}
    for name in ("plain", "l2", "bn", "bn+l2")
}
DEFAULT_SCHEMES = ("plain", "l2", "bn", "bn+l2", "bn+l2+gamma+beta")


class Question(NamedTuple):
    """Does `subject` matter, given something else: is `scheme` better than `against`?"""

    subject: str
    given: str
    scheme: str
    against: str


QUESTIONS = (
    Question("L2 on the weights", "batch norm", "bn+l2", "bn"),
    Question("batch norm", "L2", "bn+l2", "l2"),
    Question("L2 on gamma and beta", "batch norm and L2 on the weights", "bn+l2+gamma+beta", "bn+l2"),
    Question("dropout", "batch norm and L2 on the weights", "bn+l2+dropout", "bn+l2"),
    Question("L2 on the weights", "batch norm and dropout", "bn+l2+dropout", "bn+dropout"),
    Question("batch norm", "L2 and dropout", "bn+l2+dropout", "l2+dropout"),
)


class TunedL2(NamedTuple):
    """An `l2` that follows another scheme's: what that scheme's tuning chose, times a factor.

    Attributes
    ----------
    scheme : str
        Its name in the same study.
    factor : float

    Examples
    --------
    >>> from sk_bnreg import TunedL2
    >>> schemes = {"l2": {"batch_norm": False}, "a fifth": {"batch_norm": True, "l2": TunedL2("l2", 0.2)}}
    >>> schemes["a fifth"]["l2"]  # of what is chosen for "l2", in each fold: compare_schemes(..., schemes=schemes)
    TunedL2(scheme='l2', factor=0.2)
    """

    scheme: str
    factor: float


def checked_schemes(schemes: Mapping[str, Mapping[str, Any]] | Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return schemes by name, built-in ones given by their names too; refuse what no study can be made of."""
    if isinstance(schemes, Mapping):
        known = all(isinstance(name, str) and isinstance(params, Mapping) for name, params in schemes.items())
    else:
        known = isinstance(schemes, Iterable) and all(isinstance(name, str) and name in SCHEMES for name in schemes)
    if not known:
        raise ValueError(
            f"schemes must be a mapping of names to parameters, or names from {list(SCHEMES)}, got {schemes!r}."
        )
    if not isinstance(schemes, Mapping):
        schemes = {name: SCHEMES[name] for name in schemes}
    if len(schemes) < 2:
        raise ValueError(f"schemes must be at least 2, got {len(schemes)}.")
    for name, params in schemes.items():
        own, l2 = params.get("random_state", 0), params.get("l2")
        if not isinstance(own, Integral) or own < 0:
            raise ValueError(f"The random_state of scheme {name!r} must be a whole number from 0 on, got {own!r}.")
        if not isinstance(l2, TunedL2):
            continue
        if not isinstance(l2.scheme, str) or l2.scheme not in schemes or "l2" in schemes[l2.scheme]:
            raise ValueError(
                f"The l2 of scheme {name!r} must follow a scheme of this study whose l2 is tuned, got {l2.scheme!r}."
            )
        if not is_number(l2.factor) or not 0 <= l2.factor < inf:
            raise ValueError(f"The l2 of scheme {name!r} must have a factor of 0 or more, got {l2.factor!r}.")
    return dict(schemes)
