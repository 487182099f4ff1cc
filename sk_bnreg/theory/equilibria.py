"""Published equilibria of growth and decay, run afresh: how far a step turns weights, and how long they get."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sk_bnreg.engine.roles import HIDDEN_WEIGHTS
from sk_bnreg.estimators.networks import BNMLPRegressor
from sk_bnreg.theory.finding import AS_PREDICTED, Finding
from sk_bnreg.theory.rotation import NormRecorder, equilibrium_angle

N_SEEDS = 20
PLAIN = {"numeric_embedding": None, "n_ensemble": 1, "early_stopping": False, "batch_size": 200}
CONSTANT = {**PLAIN, "learning_rate": "constant"}
_DERIVED = "derived here"


def made_up(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 1,024 rows of 20 features and a target that is not linear in three of them.

    Its noise keeps gradients from vanishing: without them no equilibrium of growth and decay is reached.

    Returns
    -------
    X : ndarray of shape (1024, 20)
    y : ndarray of shape (1024,)
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((1024, 20))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * rng.standard_normal(1024)


class _Causes(NamedTuple):
    """What makes the weights w of each unit longer and shorter, arrays of shape (n_members, n_units).

    Let h be the gradient, with Adam divided by sqrt(v). Momentum keeps a share m of the step u and adds (1 - m) h; the
    weights move by -rate u. Then a gradient changes ||w||^2 in the end by rate^2 (own + carried + along), and L2 by
    -2 rate l2 decaying, to first order. In equilibrium the two cancel.
    """

    own: NDArray[np.float64]  # h.h
    carried: NDArray[np.float64]  # 2 h.(m u) / (1 - m) with the u before this step; 0 of independent gradients
    along: NDArray[np.float64]  # -2 h.w / rate; 0 at right angles to w
    decaying: NDArray[np.float64]  # w.w, with L2 in Adam's loss w.(w / sqrt(v))


class _CauseRecorder(NormRecorder):
    """A `NormRecorder` that notes the causes, too, of the step that it looks at in each epoch."""

    def initialize(self) -> "_CauseRecorder":
        """Forget earlier trainings."""
        self.causes_: list[_Causes] = []
        super().initialize()
        return self

    def choose_step(self, n_steps: int) -> int:
        """Return the step of an epoch to look at."""
        self.n_steps_ = (len(self.epochs_) + 1) * n_steps
        return super().choose_step(n_steps)

    def on_chosen_step(self, net: Any, before: Tensor, grad: Tensor, after: Tensor, rates: NDArray[np.float64]) -> None:
        """Note the causes. Adam's v is that of the epoch's end: a few steps on, of the 1,000 that it is a mean of."""
        super().on_chosen_step(net, before, grad, after, rates)
        solver, member = net.optimizer_, net.members[0]
        rate, kept = _rate_and_kept(net, rates[0])
        w, h = self._weights(before), self._weights(grad)
        penalised = w
        if "exp_avg_sq" in solver.moments:
            constants, v = solver.param_groups[0], self._weights(solver.member_state()["exp_avg_sq"])
            root = np.sqrt(v / (1 - constants["beta_2"] ** self.n_steps_)) + constants["epsilon"]
            h = h / root
            penalised = w / root if member.l2_mode == "loss" else w
        # what of a step is not momentum's: L2 in the loss enters it as the gradient does
        share = 1.0 if member.l2_mode == "decoupled" else 1 - kept
        step = (w - self._weights(after)) / rate - share * member.l2[HIDDEN_WEIGHTS[0]] * penalised
        own = self._of_units(h, h)
        self.causes_.append(
            _Causes(
                own=own,
                carried=2 * (self._of_units(h, step) / (1 - kept) - own),
                along=-2 * self._of_units(h, w) / rate,
                decaying=self._of_units(w, penalised),
            )
        )


def _rate_and_kept(net: Any, lr: float) -> tuple[float, float]:
    """Return the rate and m of `_Causes`; the momentum of SGD is torch's, which adds h whole."""
    constants = net.optimizer_.param_groups[0]
    if "momentum" in constants:
        return lr / (1 - constants["momentum"]), constants["momentum"]
    return lr, constants["beta_1"]


class _Layer(NamedTuple):
    """What was seen of a layer's weights in equilibrium, arrays of shape (n_members, n_units); `n_inputs` is theirs."""

    n_inputs: int
    angle: NDArray[np.float64]  # root mean square
    slope: NDArray[np.float64]  # ||w|| ||g||, root mean square
    norm: NDArray[np.float64]  # mean
    norm4: NDArray[np.float64]  # mean fourth power
    causes: _Causes  # means


def _at_equilibrium(n_copies: int = 1, **params: Any) -> tuple[Any, list[_Layer]]:
    """Train 20 seeds for 6,000 steps; return the network and what the second half showed of each hidden layer.

    Parameters
    ----------
    n_copies : int
        How often each row is in the table.
    **params : dict
        Of the network: solver, learning rate, l2 and its mode.

    Returns
    -------
    network : BNMLPRegressor
        With an ensemble of 20.
    layers : list of _Layer
    """
    X, y = made_up()
    network = BNMLPRegressor(
        (32, 32), **CONSTANT | params | {"batch_size": 64, "n_ensemble": N_SEEDS}, l2_targets=HIDDEN_WEIGHTS,
        max_iter=375 // n_copies, dtype="float64", callbacks=[_CauseRecorder()], random_state=0,
    ).fit(np.tile(X, (n_copies, 1)), np.tile(y, n_copies))  # fmt: skip
    recorder = network.callbacks[0]
    half = slice((len(recorder.epochs_) + 1) // 2, None)
    angles, slopes, norms = (
        np.array([getattr(epoch, name) for epoch in recorder.epochs_[half]])
        for name in ("angles", "slopes", "unit_norms")
    )
    causes = np.mean(recorder.causes_[half], axis=0)  # (4, M, H)
    layers = []
    for units, n_inputs in ((slice(0, 32), 20), (slice(32, 64), 32)):
        layers.append(
            _Layer(
                n_inputs=n_inputs,
                angle=np.sqrt((angles[..., units] ** 2).mean(0)),
                slope=np.sqrt((slopes[..., units] ** 2).mean(0)),
                norm=norms[..., units].mean(0),
                norm4=(norms[..., units] ** 4).mean(0),
                causes=_Causes(*causes[..., units]),
            )
        )
    return network, layers


def _medians(part: NDArray[np.float64], whole: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return each seed's median ratio over units ``(n_members, n_units)``, dead ones outliers or nan among them."""
    whole = np.broadcast_to(whole, part.shape)
    return np.nanmedian(np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0), axis=1)


def _turned_as_measured(network: Any, layer: _Layer, lr: float) -> NDArray[np.float64]:
    """Return the angles over those of a step whose size the causes give, in weights as long as measured."""
    rate, kept = _rate_and_kept(network.net_, lr)
    step = rate**2 * (layer.causes.own + layer.causes.carried) * (1 - kept) / (1 + kept)
    return _medians(layer.angle**2 * layer.norm**2, step) ** 0.5


def _grown_as_measured(network: Any, layer: _Layer, lr: float, l2: float, power: int) -> NDArray[np.float64]:
    """Return the norms over those at which the causes balance; growth over decay falls as norm^-`power`."""
    rate, _ = _rate_and_kept(network.net_, lr)
    causes = layer.causes
    growth = rate * (causes.own + causes.carried + causes.along)
    return _medians(2 * l2 * causes.decaying, growth) ** (1 / power)


def equilibrium_of_sgd() -> Iterator[Finding]:
    """R2: SGD with momentum turns weights by an angle that learning rate and decay set.

    The prediction of norms takes the measured size of the gradient, and that gradients do not depend on earlier ones.

    Yields
    ------
    Finding
    """
    source = "Wan et al. 2021, Spherical motion dynamics, NeurIPS; Kosson et al. 2024, Rotational equilibrium, ICML"
    turns = "In equilibrium a step of SGD turns weights that batch norm follows by sqrt(2 lr l2 / (1 + momentum))."
    grows = "Then ||w||^4 = lr E||g||^2 ||w||^2 / (2 l2 (1 - momentum)), g their gradient."
    holds = "That holds with what gradients, as measured, share with earlier ones."
    later = []
    for lr, l2 in ((0.05, 1e-2), (0.02, 5e-2)):
        network, layers = _at_equilibrium(solver="sgd", l2_mode="loss", learning_rate_init=lr, l2=l2)
        setting, angle = f"lr {lr:g}, l2 {l2:g}", equilibrium_angle(network, np.array(lr))
        for i, layer in enumerate(layers, 1):
            where = f"layer {i}, {setting}"
            yield _ratio("R2", turns, source, f"angle / predicted, {where}", _medians(layer.angle, angle))
            norm = _medians(layer.norm4 * 2 * l2 * (1 - network.momentum), lr * layer.slope**2) ** 0.25
            later.append(_ratio("R2", grows, source, f"norm / predicted, {where}", norm))
            later.append(_as_measured(later[-1], holds, _grown_as_measured(network, layer, lr, l2, 4)))
        own, carried = (np.hstack([getattr(layer.causes, name) for layer in layers]) for name in ("own", "carried"))
        quantity = f"growth from what gradients share with earlier ones / from each by itself, {setting}"
        later.append(Finding("R2", holds, _DERIVED, quantity, None, _floats(_medians(carried, own))))
    yield from _by_claim(later)


def equilibrium_of_adamw() -> Iterator[Finding]:
    """R3: AdamW turns weights by an angle that learning rate and decay set.

    The prediction takes Adam's updates to be as large and as independent as those of random gradients.

    Yields
    ------
    Finding
    """
    source = "Kosson et al. 2024, Rotational equilibrium, ICML"
    turns = "In equilibrium a step of AdamW turns them by sqrt(2 lr l2 (1 - beta_1) / (1 + beta_1))."
    grows = "Then their root mean square is sqrt(lr / (2 l2)), whatever the gradient."
    holds = "Both hold with the gradients as measured."
    later: list[Finding] = []
    copied: list[_Layer] = []
    for lr, l2 in ((3e-3, 0.5), (1e-2, 0.1)):
        network, layers = _at_equilibrium(learning_rate_init=lr, l2=l2)
        setting, angle = f"lr {lr:g}, l2 {l2:g}", equilibrium_angle(network, np.array(lr))
        for i, layer in enumerate(layers, 1):
            where = f"layer {i}, {setting}"
            turned = _ratio("R3", turns, source, f"angle / predicted, {where}", _medians(layer.angle, angle))
            yield turned
            norm = _medians(layer.norm, np.sqrt(lr * layer.n_inputs / (2 * l2)))
            grown = _ratio("R3", grows, source, f"norm / predicted, {where}", norm)
            later += [grown, _as_measured(turned, holds, _turned_as_measured(network, layer, lr))]
            later += [_as_measured(grown, holds, _grown_as_measured(network, layer, lr, l2, 2))]
            later += [_spread("R3", "So units of a layer turn at similar rates.", layer, where)]
        later += _growth("R3", holds, layers, setting)
        if not copied:
            # so many that what an epoch has drawn already says little of the next batch
            copied = _at_equilibrium(n_copies=16, learning_rate_init=lr, l2=l2)[1]
            for i, (layer, other) in enumerate(zip(layers, copied, strict=True), 1):
                times = np.median(other.norm, axis=1) / np.median(layer.norm, axis=1)
                quantity = f"norms with 16 copies of each row in the table / without, layer {i}, {setting}"
                later.append(Finding("R3", holds, _DERIVED, quantity, None, _floats(times)))
    yield from _by_claim(later)


def equilibrium_of_adam() -> Iterator[Finding]:
    """R4: with Adam and L2 in the loss the angle depends on the gradient, so units turn at different rates.

    Adam divides the penalty's gradient, too, by the size of a unit's gradients; so how much a unit decays, and where
    its norm comes to rest, is the unit's own.

    Yields
    ------
    Finding
    """
    source = "derived here; that it depends on the gradient's size: Kosson et al. 2024"
    turns = "With Adam and L2 in the loss a step turns them by lr sqrt(d (1 - beta_1) / (1 + beta_1)) / ||w||, where "
    turns += "||w||^3 = lr sqrt(d) s / (2 l2), d inputs, s the size of ||w|| ||g||."
    grows = "Their norm is that ||w||."
    holds = "Both hold with the gradients as measured."
    lr, l2 = 3e-3, 1e-2
    network, layers = _at_equilibrium(l2_mode="loss", learning_rate_init=lr, l2=l2)
    later = []
    for i, layer in enumerate(layers, 1):
        where = f"layer {i}, lr {lr:g}, l2 {l2:g}"
        norm = np.cbrt(lr * np.sqrt(layer.n_inputs) * layer.slope / (2 * l2))
        step = lr * np.sqrt(layer.n_inputs * (1 - network.beta_1) / (1 + network.beta_1))
        turned = _ratio("R4", turns, source, f"angle / predicted, {where}", _medians(layer.angle * norm, step))
        yield turned
        grown = _ratio("R4", grows, source, f"norm / predicted, {where}", _medians(layer.norm, norm))
        later += [grown, _as_measured(turned, holds, _turned_as_measured(network, layer, lr))]
        later += [_as_measured(grown, holds, _grown_as_measured(network, layer, lr, l2, 3))]
        later += [_spread("R4", "So units of a layer turn at different rates.", layer, where)]
    later += _growth("R4", holds, layers, f"lr {lr:g}, l2 {l2:g}")
    yield from _by_claim(later)


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())


def _ratio(key: str, claim: str, source: str, quantity: str, ratios: NDArray[np.float64]) -> Finding:
    return Finding(key, claim, source, quantity, 1.0, _floats(ratios), "median", *AS_PREDICTED)


def _as_measured(explained: Finding, claim: str, ratios: NDArray[np.float64]) -> Finding:
    """Return the figure that explains a ratio by what gradients do."""
    quantity = f"{explained.quantity}, gradients as measured"
    return replace(_ratio(explained.key, claim, _DERIVED, quantity, ratios), explains=explained.quantity)


def _spread(key: str, claim: str, layer: _Layer, where: str) -> Finding:
    low, high = np.quantile(layer.angle, (0.1, 0.9), axis=1)
    quantity = f"angles of units, 90 % quantile / 10 %, {where}"
    return Finding(key, claim, _DERIVED, quantity, None, _floats(high / low))


def _growth(key: str, claim: str, layers: list[_Layer], setting: str) -> list[Finding]:
    """Return the causes of growth with Adam over the growth that is predicted, which takes h.h to be 1 per weight."""
    causes = {
        "own": "growth from each gradient by itself / predicted",
        "carried": "growth from what gradients share with earlier ones / predicted",
        "along": "growth from gradients, divided by sqrt(v), along the weights / predicted",
    }
    found = []
    for name, quantity in causes.items():
        parts = np.hstack([getattr(layer.causes, name) / layer.n_inputs for layer in layers])
        medians = _floats(np.median(parts, axis=1))
        found.append(Finding(key, claim, _DERIVED, f"{quantity}, {setting}", None, medians))
    return found


def _by_claim(findings: list[Finding]) -> list[Finding]:
    """Return the findings of each claim together."""
    claims = list(dict.fromkeys(finding.claim for finding in findings))
    return sorted(findings, key=lambda finding: claims.index(finding.claim))
