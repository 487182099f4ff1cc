"""diagnose: could L2 limit the function of a fitted network, or did it only set the pace?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.optimize import linprog
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sk_bnreg.borrowed import num_samples, safe_indexing
from sk_bnreg.engine.stack import StackedMLP
from sk_bnreg.estimators.checks import check_table
from sk_bnreg.estimators.pipelines import network_in, rows_at_network
from sk_bnreg.theory.rotation import Place, block_values, is_normalised, layer_rows, place_order, trajectory

FACTOR = 3.0  # by which parameters are scaled
INVARIANT = 0.01  # an output that changes by less than this share of its standard deviation stays as it is
NEGLIGIBLE = 0.03  # a smaller decay budget shrinks nothing by as much as 3 %
N_ROWS = 200  # on which the outputs are compared
HOMOGENEOUS = ("identity", "relu")  # activations with f(c z) = c f(z) for every c > 0


@dataclass(frozen=True)
class Diagnosis:
    """What L2 did in one fit.

    Attributes
    ----------
    sentences : tuple of str
        What follows for each kind of parameter that L2 reaches, and which units are of no use.
    layers : DataFrame
        A row per layer and role: number of `parameters`, `norm`, `norm_at_start` (nan after a warm start), `l2`,
        decay `budget`, `share_of_penalty`. Where batch norm follows, of the median unit's weights: `effective_rate`,
        the largest learning rate over ||w||^2 (SGD) or ||w|| (Adam); that over its value at the start
        (`times_start`) and, if norms were recorded, over what it would be without L2 (`times_without_l2`, an
        estimate); the `angle` in radians by which a step turned the weights, root mean square over the second
        half of the epochs, and the `equilibrium_angle` to which learning rate and L2 lead.
    units : DataFrame
        A row per hidden layer: its `units`, those that are `dead` (the same output on every row), and with batch
        norm those with a gamma within 0.01 of 0 (`gamma_near_0`).
    invariances : DataFrame
        A row per rescaling by the factor 3: `change`, the largest change of an output in its standard deviations, with
        batch statistics over up to 200 rows, and whether theory has it `invariant` (None where no theory reaches).
    evaded : frozenset of (layer, role)
        The parameters that L2 reaches and can shrink for free, so that it cannot limit the function through them.
    trajectory : DataFrame or None
        A row per `epoch`, `layer` and `role` with its `norm`; where batch norm follows also `learning_rate`,
        `effective_rate`, `angle` and `equilibrium_angle`. None without a `NormRecorder`.
    threshold : float
        A smaller `change` is none.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, diagnose
    >>> X, y = load_iris(return_X_y=True)
    >>> diagnosis = diagnose(BNMLPClassifier((8,), max_iter=5, n_ensemble=1).fit(X, y), X)
    >>> diagnosis.layers.index.tolist()[:2], diagnosis.trajectory is None
    ([(1, 'hidden_weights'), (1, 'gamma')], True)
    """

    sentences: tuple[str, ...]
    layers: pd.DataFrame
    units: pd.DataFrame
    invariances: pd.DataFrame
    evaded: frozenset[Place]
    trajectory: pd.DataFrame | None
    threshold: float = INVARIANT

    def summary(self) -> str:
        """Return the sentences, one a line."""
        return "\n".join(self.sentences)

    def __str__(self) -> str:
        return self.summary()


def diagnose(estimator: Any, X: Any) -> Diagnosis:
    """Tell what L2 did in a fit: did it limit the function, or only set the learning rate?

    Groups of parameters are scaled in the fitted network itself. Where that leaves its outputs as they are,
    L2 can shrink the group for free; it is then said to be evaded, and cannot limit the function.

    Parameters
    ----------
    estimator : fitted estimator
        A BNMLPClassifier or BNMLPRegressor, or a pipeline, a search or a TransformedTargetRegressor around one. Of an
        ensemble the first member is looked at. With ``callbacks=[NormRecorder()]`` there is more to say.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        Rows such as those of `fit`; up to 200 are used.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ValueError
        If the estimator does not end in a network, or X has fewer than two rows.

    References
    ----------
    van Laarhoven 2017, "L2 regularization versus batch and weight normalization", arXiv:1706.05350.
    Kosson et al. 2024, "Rotational equilibrium", ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPClassifier, diagnose
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), BNMLPClassifier((16, 16), l2=1e-3, random_state=0)).fit(X, y)
    >>> print(diagnose(model, X).sentences[0])
    D = 0.0018: decay alone would have shrunk a penalised parameter by 0.18 %. This L2 did nothing.
    """
    network, x = _network_and_rows(estimator, X)
    layers = layer_rows(network)
    rescalings = _rescalings(network, x)
    units = _units(network, x)
    penalised = [block for block, row in layers.items() if row["l2"] > 0]
    free = [rescaling.powers for rescaling in rescalings if rescaling.change < INVARIANT]
    ways = {block: _evasion(block, penalised, free) for block in penalised}
    return Diagnosis(
        sentences=(*_l2_sentences(network, layers, rescalings, ways), *_unit_sentences(units)),
        layers=pd.DataFrame(list(layers.values()), index=pd.MultiIndex.from_tuples(layers, names=["layer", "role"])),
        units=pd.DataFrame.from_dict(units, orient="index").rename_axis("layer"),
        invariances=pd.DataFrame(
            {"change": [r.change for r in rescalings], "invariant": [r.invariant for r in rescalings]},
            index=pd.Index([r.name for r in rescalings], name="rescaling"),
        ),
        evaded=frozenset(block for block, way in ways.items() if way is not None),
        trajectory=trajectory(network),
    )


def _network_and_rows(estimator: Any, X: Any) -> tuple[Any, Tensor]:
    """Return the fitted network at the end of an estimator, and some rows as they reach it, ``(D, B)``."""
    check_is_fitted(estimator)
    n_rows = num_samples(X)
    if n_rows > N_ROWS:
        X = safe_indexing(X, np.linspace(0, n_rows - 1, N_ROWS).astype(int))
    network, _ = network_in(estimator)
    if network is None:
        raise ValueError(f"estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got {estimator!r}.")
    if n_rows < 2:
        raise ValueError(f"X must have at least 2 rows, over which to take batch statistics, got {n_rows}.")
    X, _ = rows_at_network(estimator, X)
    X = check_table(network, X, reset=False)
    dense = X.toarray() if sparse.issparse(X) else X  # type: ignore[attr-defined]
    return network, torch.from_numpy(np.ascontiguousarray(dense.T))


class _Rescaling(NamedTuple):
    """Parameters multiplied by powers of `FACTOR`, what that did to the outputs, and what theory says of it."""

    powers: Mapping[Place, int]
    invariant: bool | None
    change: float

    @property
    def name(self) -> str:
        up, down = (_words([block for block, power in self.powers.items() if power == sign]) for sign in (1, -1))
        return f"{up} x {FACTOR:g}" + (f", {down} / {FACTOR:g}" if down else "")


def _rescalings(network: Any, x: Tensor) -> list[_Rescaling]:
    """Scale groups of parameters, each in a member of one stack, and compare outputs with batch statistics of `x`."""
    original = network.net_.module_
    known = list(_known_rescalings(original))
    with torch.no_grad():
        stack = StackedMLP(**{**network.net_.get_params_for("module"), "n_members": 1 + len(known)})
        stack.theta.copy_(original.theta[:1])
        values = block_values(stack, stack.theta)
        for member, (powers, _) in enumerate(known, 1):
            for block, power in powers.items():
                values[block][member] *= FACTOR**power
        # in training mode, with the batch's statistics: running ones would know the old scale
        outputs = stack(x.expand(len(stack.theta), -1, -1))  # (M, C, B)
    spread = outputs[0].std(dim=1, keepdim=True).clamp(min=torch.finfo(outputs.dtype).tiny)
    changes = ((outputs[1:] - outputs[0]).abs() / spread).amax(dim=(1, 2))
    return [_Rescaling(*what, change) for what, change in zip(known, changes.tolist(), strict=True)]


def _known_rescalings(module: StackedMLP) -> Iterator[tuple[dict[Place, int], bool | None]]:
    """Yield groups of parameters to be scaled, and whether theory says that the function stays.

    A layer's activations are scaled by its weights and biases, where a normalisation follows by its scales and shifts.
    """
    homogeneous = module.activation in HOMOGENEOUS
    normalised = module.normalisation is not None
    free = module.normalisation is not None and module.normalisation.takes_scale_out
    layers: list[dict[str, Place]] = [{} for _ in range(len(module.hidden) + 1)]
    for block in module.parameter_blocks:
        layers[block.layer - 1][block.kind] = (block.layer, block.role)
    for layer, following in pairwise(layers):
        scale = dict.fromkeys([layer["scale" if normalised else "weights"], layer["shift"]], 1)
        yield {layer["weights"]: 1}, free
        if normalised:
            yield {layer["scale"]: 1}, False if homogeneous else None
        if free and following is not layers[-1]:  # the next normalisation takes the scale out again
            yield scale, homogeneous or None
        else:
            if normalised:
                yield scale, False if homogeneous else None
            yield {**scale, following["weights"]: -1}, homogeneous or None
    yield {layers[-1]["weights"]: 1}, False


def _units(network: Any, x: Tensor) -> dict[int, dict[str, int]]:
    """Count the units of each hidden layer, and those of them that are of no use.

    Returns
    -------
    dict of int to dict of str to int
        By layer: `units`, `dead`, and where units have a scale `gamma_near_0`.
    """
    module = network.net_.module_
    hidden: list[Tensor] = []
    with torch.no_grad():
        module.train(False)(x.to(module.theta)[None].expand(len(module.theta), -1, -1), hidden)
    counts = {}
    for layer, (after, parameters) in enumerate(zip(hidden, module.layers(module.theta.data)[:-1], strict=True), 1):
        counts[layer] = {"units": after.shape[1], "dead": int((after[0].std(dim=1) == 0).sum())}
        if parameters.scale is not None:
            counts[layer]["gamma_near_0"] = int((parameters.scale[0].abs() < 0.01).sum())
    return counts


def _l2_sentences(
    network: Any,
    layers: Mapping[Place, Mapping[str, float]],
    rescalings: Sequence[_Rescaling],
    ways: Mapping[Place, Mapping[Place, float] | None],
) -> list[str]:
    """Say of every group of penalised parameters whether L2 can limit the function through it.

    Parameters
    ----------
    network : fitted network
    layers : dict of (layer, role) to dict
        The rows of `Diagnosis.layers`.
    rescalings : sequence of _Rescaling
    ways : dict of (layer, role) to dict or None
        The rescaling by which each penalised block is evaded, None where there is none.

    Returns
    -------
    list of str
    """
    if not ways:
        return ["There is no L2 in this fit."]
    budget = max(layers[block]["budget"] for block in ways)
    if budget < NEGLIGIBLE:
        shrunk = f"{100 * (1 - exp(-budget)):.2g} %"
        return [
            f"D = {budget:.2g}: decay alone would have shrunk a penalised parameter by {shrunk}. This L2 did nothing."
        ]
    free: dict[tuple[bool, tuple[Place, ...]], list[Place]] = {}
    module = network.net_.module_
    for block, way in ways.items():
        if way is not None:
            into = tuple(other for other, power in way.items() if power > 0)
            free.setdefault((is_normalised(module, block), into), []).append(block)
    sentences, norm = [], module.normalisation.name if module.normalisation else ""
    for (normalised, into), blocks in free.items():
        change = max(r.change for r in rescalings if r.change < INVARIANT and set(blocks) & set(r.powers))
        shown = f"x {FACTOR:g} changes the outputs by {change:.1g} of their standard deviation"
        if normalised and not into:
            rate = _learning_rate([layers[block] for block in blocks])
            sentences += [
                f"L2 on {_words(blocks)} cannot change the best function here: {norm} takes their scale out again "
                f"({shown}). It sets their effective learning rate{rate}."
            ]
        elif into:
            sentences += [
                f"L2 on {_words(blocks)} is evaded: the scale can move into {_words(into)}, which L2 does not reach "
                f"({shown})."
            ]
        else:
            sentences += [f"L2 on {_words(blocks)} is evaded: the next {norm} takes the scale out again ({shown})."]
    held = [block for block, way in ways.items() if way is None]
    in_theory = [rescaling.powers for rescaling in rescalings if rescaling.invariant]
    by_eps = [block for block in held if _evasion(block, list(ways), in_theory) is not None]
    if by_eps:
        sentences += [
            f"L2 on {_words(by_eps)} would be without effect on the function, but batch_norm_eps="
            f"{network.structure_.batch_norm_eps:g} is not small beside the variances here, so their scale counts."
        ]
        held = [block for block in held if block not in by_eps]
    if held:
        sentence = f"L2 on {_words(held)} limits the function: nothing that leaves it as it is shrinks them all."
        activation = network.structure_.activation
        if activation not in HOMOGENEOUS:
            sentence += f" (Of activation={activation!r}, which is not homogeneous, theory knows no more.)"
        sentences += [sentence]
    return sentences


def _evasion(
    block: Place, penalised: Sequence[Place], free: Sequence[Mapping[Place, float]]
) -> Mapping[Place, float] | None:
    """Combine rescalings that leave the outputs as they are so that a block shrinks and nothing penalised grows.

    Rescalings multiply, so their powers add up: whether a combination exists is a linear program.

    Parameters
    ----------
    block : (layer, role)
    penalised : sequence of (layer, role)
        All blocks with L2.
    free : sequence of mapping
        Rescalings, the power of each block in them.

    Returns
    -------
    dict or None
        The power of every block in the combination, None if there is none.
    """
    usable = [*free, *({other: -power for other, power in powers.items()} for powers in free)]
    for powers in usable:  # mostly one will do
        if powers.get(block, 0) < 0 and all(powers.get(other, 0) <= 0 for other in penalised):
            return powers
    if not any(block in powers for powers in usable):
        return None
    blocks = sorted({other for powers in usable for other in powers}, key=place_order)
    matrix = np.array([[powers.get(other, 0) for powers in usable] for other in blocks], float)
    may_not_grow = matrix[[other in penalised for other in blocks]]
    found = linprog(
        np.ones(len(usable)),
        A_ub=may_not_grow,
        b_ub=np.zeros(len(may_not_grow)),
        A_eq=matrix[[blocks.index(block)]],
        b_eq=[-1.0],
    )
    return dict(zip(blocks, matrix @ found.x, strict=True)) if found.success else None


def _learning_rate(rows: Sequence[Mapping[str, float]]) -> str:
    """Say what L2 did to the effective learning rate of some weights, if that was recorded."""
    if "effective_rate" not in rows[0]:  # only those of single units are known
        return ""
    if "angle" not in rows[0]:
        return ", by how much callbacks=[NormRecorder()] would tell"
    times = [row.get("times_without_l2", nan) for row in rows]
    angles = [row["angle"] / row["equilibrium_angle"] for row in rows]
    if np.isnan(times).any():
        return ""
    state = "they are in rotational equilibrium" if min(angles) > 0.9 and max(angles) < 1.1 else "no equilibrium yet"
    return (
        f", now {_range(times)} times what it would be without L2 (an estimate); {state}: steps turn them by "
        f"{_range(angles)} of the angle that learning rate and L2 lead to"
    )


def _unit_sentences(units: Mapping[int, Mapping[str, int]]) -> list[str]:
    """Say which hidden layers have units that are of no use."""
    sentences = []
    for layer, row in units.items():
        of = f"of {row['units']} units of layer {layer}"
        if row["dead"]:
            sentences += [f"{row['dead']} {of} give one output on every row."]
        if row.get("gamma_near_0"):
            sentences += [f"{row['gamma_near_0']} {of} have |gamma| < 0.01."]
    return sentences


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def _words(blocks: Sequence[Place]) -> str:
    """Name blocks: "gamma and beta of layers 1 and 2 and output weights"."""
    layers: dict[str, list[int]] = {}
    for layer, role in blocks:
        layers.setdefault(role.replace("_", " "), []).append(layer)
    roles: dict[str, list[str]] = {}
    for role, numbers in layers.items():
        of = f" of layer{'s' * (len(numbers) > 1)} " + _join(map(str, numbers))
        roles.setdefault("" if role == "output weights" else of, []).append(role)
    parts = [_join(names) + of for of, names in roles.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _join(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
