"""Parameter roles: which a network has, and the L2 strength that each receives.

A new role is a name in `ROLES` (and in `L2_TARGETS` where it belongs), and the blocks of `network_blocks` that have it.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import inf, prod
from numbers import Real
from typing import NamedTuple

from sk_bnreg.engine.embedding import SIZE, embedding_shape
from sk_bnreg.engine.normalisation import NORMALISATIONS, Kind

# their order is that of the flat parameters
ROLES = ("hidden_weights", "output_weights", "biases", "gamma", "beta", "embeddings")

L2_TARGETS = {
    "weights": ("hidden_weights", "output_weights"),
    "weights+gamma+beta": ("hidden_weights", "output_weights", "gamma", "beta"),
    "all": ROLES,
    "none": (),
}
HIDDEN_WEIGHTS = ("hidden_weights",)  # those that a normalisation follows, where there is one


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
    if not all(isinstance(value, Real) and 0 <= value < inf for value in numbers):
        raise ValueError(f"l2 must be a finite number >= 0 or a mapping of roles to such numbers, got {l2!r}.")
    return {role: float(strengths.get(role, 0.0)) for role in ROLES}


def _roles_of(target: str, argument: str) -> tuple[str, ...]:
    if target == "weights":
        return L2_TARGETS["weights"]
    if target not in ROLES:
        raise ValueError(f"{argument} names the unknown role {target!r}; the roles are {ROLES} and 'weights'.")
    return (target,)


class Block(NamedTuple):
    """Parameters of one kind in one layer of a member, which stand together in the flat tensor.

    Attributes
    ----------
    layer : int
        From 1; the last is the output layer.
    kind : {"weights", "scale", "shift", "embeddings"}
        What the layer does with them. A shift is a bias, or what a normalisation has in its place.
    role : str
        What L2 calls them.
    shape : tuple of int
    start, stop : int
        Columns, from and to.
    """

    layer: int
    kind: str
    role: str
    shape: tuple[int, ...]
    start: int
    stop: int


def network_blocks(
    n_features: int, hidden_layer_sizes: Sequence[int], n_outputs: int, *, batch_norm: Kind = True, n_embedded: int = 0
) -> list[Block]:
    """Return all parameters of a network in the order of their columns: by role as in `ROLES`, then by layer.

    A role that is in no block is one that the network lacks.

    Examples
    --------
    >>> from sk_bnreg.engine.roles import network_blocks
    >>> [(block.role, block.shape) for block in network_blocks(3, (4,), 1)][:2]
    [('hidden_weights', (4, 3)), ('output_weights', (1, 4))]
    """
    normalisation, last = NORMALISATIONS[batch_norm], len(hidden_layer_sizes) + 1
    sizes = [n_features + SIZE * n_embedded, *hidden_layer_sizes, n_outputs]
    found: list[tuple[int, str, str, tuple[int, ...]]] = []
    if n_embedded:
        found.append((1, "embeddings", "embeddings", embedding_shape(n_embedded)))
    for layer, (n_in, n_out) in enumerate(pairwise(sizes), 1):
        units: tuple[int, ...] = (n_out,)
        found.append((layer, "weights", "hidden_weights" if layer < last else "output_weights", (n_out, n_in)))
        if normalisation is None or layer == last:
            found.append((layer, "shift", "biases", units))
        else:
            found += [
                (layer, kind, role, units) for kind, role in zip(("scale", "shift"), normalisation.roles, strict=True)
            ]
    found.sort(key=lambda block: ROLES.index(block[2]))  # those of a role stay in the order of layers
    stops = list(accumulate(prod(shape) for *_, shape in found))
    return [Block(*block, start, stop) for block, start, stop in zip(found, [0, *stops[:-1]], stops, strict=True)]


def lacking_roles(*, n_hidden: int = 2, batch_norm: Kind = True, embedded: bool = True) -> set[str]:
    """Return the roles that no network of this kind, with so many hidden layers, has.

    Examples
    --------
    >>> from sk_bnreg.engine.roles import lacking_roles
    >>> sorted(lacking_roles(batch_norm=False))
    ['beta', 'gamma']
    """
    blocks = network_blocks(1, (1,) * n_hidden, 1, batch_norm=batch_norm, n_embedded=int(embedded))
    return set(ROLES) - {block.role for block in blocks}
