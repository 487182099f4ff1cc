"""How norms and directions of the weights move: recorded in training, and where L2 leads them."""

from collections.abc import Mapping
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor

from sk_bnreg.engine.roles import HIDDEN_WEIGHTS, ROLES, Block
from sk_bnreg.engine.stack import StackedMLP

Place = tuple[int, str]  # the layer and role of an engine's Block; layers count from 1


class NormRecorder(Callback):
    """skorch callback that records norms and rotation while a network trains.

    Given to an estimator as ``callbacks=[NormRecorder()]``, it is found by `diagnose`.

    Attributes
    ----------
    epochs_ : list of Epoch
        What was seen in each epoch.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, NormRecorder
    >>> net = BNMLPClassifier((16,), max_iter=5, callbacks=[NormRecorder()], random_state=0)
    >>> epochs = net.fit(*load_iris(return_X_y=True)).callbacks[0].epochs_
    >>> len(epochs), epochs[0].angles.shape
    (5, (8, 16))
    """

    class Epoch(NamedTuple):
        """What was seen in an epoch; arrays have a row per member, nan where it trains no more.

        Attributes
        ----------
        rates : ndarray of shape (n_members,)
            Learning rate of the step that was looked at; each epoch it is the next one.
        angles, slopes : ndarray of shape (n_members, n_hidden_units)
            Of each hidden unit's incoming weights w in that step: the angle by which it turned them, in radians,
            and ||w|| ||g||, where g is their loss gradient.
        unit_norms : ndarray of shape (n_members, n_hidden_units)
            ||w|| after the epoch.
        norms : dict of (layer, role) to ndarray of shape (n_members,)
            Norm of all parameters of a role in a layer after the epoch.
        """

        rates: NDArray[np.float64]
        angles: NDArray[np.float64]
        slopes: NDArray[np.float64]
        unit_norms: NDArray[np.float64]
        norms: dict[Place, NDArray[np.float64]]

    def initialize(self) -> "NormRecorder":
        """Forget earlier trainings."""
        self.epochs_: list[NormRecorder.Epoch] = []
        return self

    def on_train_begin(self, net: Any, *args: Any, **kwargs: Any) -> None:
        """Learn where everything stands in the flat parameters."""
        module = net.module_
        self.block_starts_ = {place: block.start for place, block in _places(module).items()}
        weights = sorted(block for block in module.parameter_blocks if block.role in HIDDEN_WEIGHTS)
        self.weight_columns_ = torch.cat([torch.arange(0), *(torch.arange(b.start, b.stop) for b in weights)])
        n_inputs = [block.shape[1] for block in weights for _ in range(block.shape[0])]  # of every hidden unit
        self.unit_starts_ = np.cumsum([0, *n_inputs])[:-1]

    def choose_step(self, n_steps: int) -> int:
        """Return the step of an epoch to look at."""
        return len(self.epochs_) % n_steps

    def on_chosen_step(self, net: Any, before: Tensor, grad: Tensor, after: Tensor, rates: NDArray[np.float64]) -> None:
        """Note the step's rate, angles and slopes."""
        old, gradient = self._weights(before), self._weights(grad)
        square = self._of_units(old, old)
        self.slopes_ = np.sqrt(square * self._of_units(gradient, gradient))
        change = self._weights(after) - old
        size, along = self._of_units(change, change), self._of_units(old, change)
        self.angles_ = np.arctan2(np.sqrt(np.maximum(square * size - along**2, 0)), square + along)
        self.rates_ = rates

    def on_epoch_end(self, net: Any, *args: Any, **kwargs: Any) -> None:
        """Add the epoch."""
        theta = net.module_.theta.data
        theta = theta if len(theta) == len(net.active_) else theta[net.active_]  # torch's stack has those alone
        weight, starts = self._weights(theta), sorted(self.block_starts_.values())
        squares = np.add.reduceat(theta.cpu().numpy() ** 2, starts, axis=1, dtype=np.float64)

        def of_all(part: NDArray[np.float64]) -> NDArray[np.float64]:
            whole = np.full((len(net.members), *part.shape[1:]), nan)
            whole[net.active_] = part
            return whole

        ends = of_all(np.sqrt(squares))
        self.epochs_.append(
            self.Epoch(
                rates=of_all(self.rates_),
                angles=of_all(self.angles_),
                slopes=of_all(self.slopes_),
                unit_norms=of_all(np.sqrt(self._of_units(weight, weight))),
                norms={block: ends[:, starts.index(start)] for block, start in self.block_starts_.items()},
            )
        )

    def _of_units(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
        """Return the dot product of each unit's weights in a and b, ``(M, H)``."""
        return np.add.reduceat(a * b, self.unit_starts_, axis=1, dtype=np.float64)

    def _weights(self, flat: Tensor) -> NDArray[Any]:
        """Return the hidden weights of ``(M, P)``, unit by unit."""
        return flat[:, self.weight_columns_.to(flat.device)].cpu().numpy()


def layer_rows(network: Any) -> dict[Place, dict[str, float]]:
    """Return the rows of `Diagnosis.layers`.

    Parameters
    ----------
    network : fitted BNMLPClassifier or BNMLPRegressor
        Of its members the first is looked at.

    Returns
    -------
    dict of (layer, role) to dict of str to float
    """
    net, module = network.net_, network.net_.module_
    member, budgets = net.members[0], {report.role: report.budget for report in network.l2_report_}
    start = _start(network)
    values = {block: value[0].double().cpu() for block, value in block_values(module, module.theta.data).items()}
    penalty = {block: member.l2[block[1]] * float(value.square().sum()) for block, value in values.items()}
    rows = {}
    for block, value in values.items():
        role = block[1]
        row = {
            "parameters": value.numel(),
            "norm": float(value.norm()),
            "norm_at_start": float(start[block].norm()) if start else nan,
            "l2": member.l2[role],
            "budget": budgets[role],
            "share_of_penalty": penalty[block] / (sum(penalty.values()) or 1.0),
        }
        rows[block] = row | (_rotation(network, block, value, start) if _has_free_units(module, block) else {})
    return rows


def is_normalised(module: StackedMLP, place: Place) -> bool:
    """Tell whether a normalisation follows these parameters that takes their scale out again."""
    return module.normalisation is not None and module.normalisation.takes_scale_out and place[1] in HIDDEN_WEIGHTS


def _has_free_units(module: StackedMLP, place: Place) -> bool:
    """Tell whether that holds for each unit by itself: then the norms and angles of units mean something."""
    found = module.normalisation
    return found is not None and found.takes_unit_scale_out and is_normalised(module, place)


def _start(network: Any) -> dict[Place, Tensor]:
    """Return the weights that the first member started from, drawn again; none after a warm start."""
    net = network.net_
    if net.records_[0].n_steps_before:
        return {}
    module = StackedMLP(**{**net.get_params_for("module"), "n_members": 1})
    member = net.members[0]
    module.reset_parameters([torch.Generator().manual_seed(member.seed)], [member.embedding])
    return {block: value[0].double() for block, value in block_values(module, module.theta.data).items()}


def _rotation(network: Any, place: Place, weight: Tensor, start: Mapping[Place, Tensor]) -> dict[str, float]:
    """Return what `Diagnosis.layers` has of weights that batch norm follows, medians over units.

    Medians, since dead units, whose weights only decay, would dominate any mean.
    """
    norms = weight.norm(dim=1).numpy()
    power = network.net_.optimizer_.rate_power
    found = {"effective_rate": float(np.median(network.net_.members[0].learning_rate_init / norms**power))}
    if start:
        at_start = start[place].norm(dim=1).numpy()
        found["times_start"] = float(np.median((at_start / norms) ** power))
    recorder = _recorder(network)
    if recorder is None or not recorder.epochs_:
        return found
    units = _units_of(network, place[0])
    epochs = recorder.epochs_[: network.best_iter_]
    if start and len(recorder.epochs_) == len(network.loss_curve_):
        without = _norms_without_l2(network, recorder, place, at_start)
        found["times_without_l2"] = float(np.median((without / norms) ** power))
    half = epochs[len(epochs) // 2 :]  # the first half of a training is on its way to the equilibrium
    angles = np.array([epoch.angles[0, units] for epoch in half])
    rates = np.array([epoch.rates[0] for epoch in half])
    found["angle"] = float(np.median(np.sqrt((angles**2).mean(axis=0))))
    found["equilibrium_angle"] = float(np.sqrt((equilibrium_angle(network, rates, place[1]) ** 2).mean()))
    return found


def _recorder(network: Any) -> NormRecorder | None:
    callbacks = [callback for _, callback in network.net_.callbacks_]
    return next((callback for callback in callbacks if isinstance(callback, NormRecorder)), None)


def _units_of(network: Any, layer: int) -> slice:
    """Return where a hidden layer's units stand in the arrays of a `NormRecorder`."""
    ends = np.cumsum([0, *network.net_.module_.hidden])
    return slice(ends[layer - 1], ends[layer])


def equilibrium_angle(network: Any, rates: NDArray[np.float64], role: str = HIDDEN_WEIGHTS[0]) -> NDArray[np.float64]:
    """Return the angle in radians by which a step turns weights that batch norm follows, once decay balances growth.

    It is the solver's, sqrt(2 d (1 - m) / (1 + m)) with m of the first moment kept (momentum, Adam's beta_1), where the
    decay d per step is lr * l2, for SGD with ``l2_mode="loss"`` lr * l2 / (1 - m). For Adam with ``l2_mode="loss"`` it
    depends on the gradient and is nan here.

    References
    ----------
    Wan et al. 2021, "Spherical motion dynamics"; Kosson et al. 2024, "Rotational equilibrium".
    """
    member, solver = network.net_.members[0], network.net_.optimizer_  # constants as trained, not as set since
    constants = solver.param_groups[0]
    decay = rates * member.l2[role] * solver.decay_factor(member.l2_mode, constants)
    return solver.equilibrium_angle(decay, constants)


def _norms_without_l2(
    network: Any, recorder: NormRecorder, place: Place, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Estimate the norms that the weights would have now, had they not decayed.

    What the steps of an epoch added to s = ||w||^2 is what it grew by beyond its decay. Steps turn weights by an angle
    that falls as 1 / ||w||^p, so they add to s in proportion to s^(1 - p), and s^p grows by p times what they added
    where s was t, times t^(p - 1): with p = 1 (Adam) the norm does not matter, with p = 2 (SGD) gradients fall with it.
    """
    units = _units_of(network, place[0])
    kept, power = network.best_iter_, network.net_.optimizer_.rate_power
    squares = np.square([start, *(epoch.unit_norms[0, units] for epoch in recorder.epochs_[:kept])])
    budgets = [0.0] + [budget[place[1]] for budget in network.net_.records_[0].budgets[:kept]]
    square = squares[0]
    for before, after, decay in zip(squares[:-1], squares[1:], np.diff(budgets), strict=True):
        left = np.exp(-2 * decay)
        # decay acts all through the epoch, so of what was added early it has taken a part too
        added = (after - left * before) * (2 * decay / (1 - left) if decay else 1.0)
        grown = square**power + power * added * np.sqrt(before * after) ** (power - 1)
        square = np.maximum(grown, 0) ** (1 / power)
    return np.sqrt(square)


def trajectory(network: Any) -> pd.DataFrame | None:
    """Return a row per epoch, layer and role of what a `NormRecorder` saw of the first member.

    Parameters
    ----------
    network : fitted BNMLPClassifier or BNMLPRegressor

    Returns
    -------
    DataFrame or None
        As `Diagnosis.trajectory`; None if nothing was recorded.
    """
    recorder = _recorder(network)
    if recorder is None or not recorder.epochs_:
        return None
    epochs = recorder.epochs_
    number = np.arange(1, len(epochs) + 1)
    rates = np.array([epoch.rates[0] for epoch in epochs])
    nothing = np.full(len(epochs), nan)
    paths = []
    for layer, role in epochs[0].norms:
        seen = [nothing] * 4
        if _has_free_units(network.net_.module_, (layer, role)):
            units = _units_of(network, layer)
            norms, angles = (
                np.array([getattr(epoch, name)[0, units] for epoch in epochs]) for name in ("unit_norms", "angles")
            )
            effective = np.median(rates[:, None] / norms**network.net_.optimizer_.rate_power, axis=1)
            seen = [rates, effective, np.median(angles, axis=1), equilibrium_angle(network, rates, role)]
        norm = np.array([epoch.norms[layer, role][0] for epoch in epochs])
        paths.append([number, np.full(len(epochs), layer), np.full(len(epochs), role), norm, *seen])
    names = ("epoch", "layer", "role", "norm", "learning_rate", "effective_rate", "angle", "equilibrium_angle")
    columns = map(np.concatenate, zip(*paths, strict=True))
    return pd.DataFrame(dict(zip(names, columns, strict=True))).dropna(subset="norm")


def block_values(module: StackedMLP, flat: Tensor) -> dict[Place, Tensor]:
    """View ``(M, P)`` by layer and role, ``(M, *shape)`` each, from the first layer on."""
    views = module.views(flat)
    return {place: views[block] for place, block in _places(module).items()}


def _places(module: StackedMLP) -> dict[Place, Block]:
    """Return all blocks by layer and role, from the first layer on."""
    blocks = {(block.layer, block.role): block for block in module.parameter_blocks}
    return {place: blocks[place] for place in sorted(blocks, key=place_order)}


def place_order(place: Place) -> tuple[int, int]:
    return place[0], ROLES.index(place[1])
