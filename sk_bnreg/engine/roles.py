"""Parameter roles, and the L2 strength that each role receives."""

from collections.abc import Mapping
from math import isfinite
from numbers import Real

ROLES = ("hidden_weights", "output_weights", "biases", "gamma", "beta", "embeddings")

L2_TARGETS = {
    "weights": ("hidden_weights", "output_weights"),
    "weights+gamma+beta": ("hidden_weights", "output_weights", "gamma", "beta"),
    "all": ROLES,
    "none": (),
}


def l2_by_role(l2: float | Mapping[str, float], l2_targets: str | tuple[str, ...]) -> dict[str, float]:
    """Resolve `l2` and `l2_targets` into one strength for every role.

    Parameters
    ----------
    l2 : float or mapping of str to float
        The strength given to every target, or a strength per role. A mapping
        names its own targets, so `l2_targets` is not consulted; "weights" stands
        for both weight roles where they are not named themselves.
    l2_targets : str or tuple of str
        A name from `L2_TARGETS`, a role or a tuple of roles ("weights" is allowed in it).

    Returns
    -------
    dict of str to float
        A nonnegative strength for each of `ROLES`.

    Raises
    ------
    ValueError
        If a strength is negative or not finite, or a role is unknown.

    Examples
    --------
    >>> from sk_bnreg.engine.roles import l2_by_role
    >>> l2_by_role(0.1, ("output_weights", "gamma"))
    {'hidden_weights': 0.0, 'output_weights': 0.1, 'biases': 0.0, 'gamma': 0.1, 'beta': 0.0, 'embeddings': 0.0}
    """
    if isinstance(l2, Mapping):
        general_first = sorted(l2.items(), key=lambda item: item[0] != "weights")
        strengths = {role: value for target, value in general_first for role in _roles_of(target, "l2")}
    elif isinstance(l2_targets, str):
        if l2_targets not in (*L2_TARGETS, *ROLES):
            raise ValueError(
                f"l2_targets must be one of {sorted(L2_TARGETS)} or a role or tuple of roles from {ROLES}, "
                f"got {l2_targets!r}."
            )
        strengths = dict.fromkeys(L2_TARGETS.get(l2_targets, (l2_targets,)), l2)
    else:
        strengths = {role: l2 for target in l2_targets for role in _roles_of(target, "l2_targets")}
    numbers = [*strengths.values(), *([] if isinstance(l2, Mapping) else [l2])]
    if not all(isinstance(value, Real) and isfinite(value) and value >= 0 for value in numbers):
        raise ValueError(f"l2 must be a finite number >= 0 or a mapping of roles to such numbers, got {l2!r}.")
    return {role: float(strengths.get(role, 0.0)) for role in ROLES}


def _roles_of(target: str, argument: str) -> tuple[str, ...]:
    if target == "weights":
        return L2_TARGETS["weights"]
    if target not in ROLES:
        raise ValueError(f"{argument} names the unknown role {target!r}; the roles are {ROLES} and 'weights'.")
    return (target,)
