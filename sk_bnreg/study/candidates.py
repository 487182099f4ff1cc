"""Candidates: the settings that each scheme tries, and the network's parameters that each of them means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import qmc
from sklearn.base import clone

from sk_bnreg.engine.roles import l2_by_role, lacking_roles
from sk_bnreg.engine.solvers import SOLVERS
from sk_bnreg.study.schemes import TUNED, TunedL2

RATE_DECADES = (-1.0, 0.5)  # learning rates tried, in powers of ten times the estimator's own
LOSS_L2_DECADES = (-6.0, -1.0)  # l2 tried where no budget exists: Adam with l2_mode="loss"
DROPOUT_RATES = (0.0, 0.1, 0.2, 0.3, 0.5)  # tried where a scheme has its rate tuned

Setting = Mapping[str, float]  # of a candidate: rate, budget, loss_l2, dropout


@dataclass
class Candidates:
    """The settings that all schemes try, and what they mean for each.

    Attributes
    ----------
    network : BNMLPClassifier or BNMLPRegressor
        With the parameters that all schemes share.
    schemes : dict of str to mapping
    n_candidates : int
    budgets : tuple of float
    """

    network: Any
    schemes: Mapping[str, Mapping[str, Any]]
    n_candidates: int
    budgets: tuple[float, ...]

    def settings(self, seed: int) -> list[dict[str, float]]:
        """Pair evenly spaced learning rates with the budgets (or l2), spread out in an order that the seed determines.

        Every outer fold has an order of its own, so that no budget owes its score to the rate it was paired with.

        Parameters
        ----------
        seed : int

        Returns
        -------
        list of dict
            `rate`, a multiple of the network's own, `budget`, `loss_l2` and `dropout`.
        """
        points = _spread_points(self.n_candidates, seed)
        rates = 10 ** np.interp(points[:, 0], (0, 1), RATE_DECADES)
        levels = (points[:, 1] * len(self.budgets)).astype(int)
        loss_l2 = [0.0, *np.logspace(*LOSS_L2_DECADES, len(self.budgets) - 1)]
        order = np.random.default_rng(seed).permutation(self.n_candidates)
        dropout = [DROPOUT_RATES[i * len(DROPOUT_RATES) // self.n_candidates] for i in order]
        return [
            {"rate": float(rate), "budget": self.budgets[level], "loss_l2": float(loss_l2[level]), "dropout": share}
            for rate, level, share in zip(rates, levels, dropout, strict=True)
        ]

    def reference(self, scheme: str) -> str | None:
        """Return the scheme whose l2 this one follows, None if it follows none."""
        l2 = self.schemes[scheme].get("l2")
        return l2.scheme if isinstance(l2, TunedL2) else None

    def learning_rate(self, scheme: str, setting: Setting) -> float:
        """Return the learning rate of a scheme's candidate."""
        own = self.network.learning_rate_init * setting["rate"]
        return float(self.schemes[scheme].get("learning_rate_init", own))

    def params(
        self, scheme: str, setting: Setting, n_rows: int, chosen: Mapping[str, Setting], random_state: int
    ) -> dict[str, Any]:
        """Return the network's parameters of a scheme's candidate.

        Parameters
        ----------
        scheme : str
        setting : dict
            One of `settings`, or between them.
        n_rows : int
            Rows to train on, on which the strength of an l2 that follows another's depends.
        chosen : mapping of str to dict
            The settings that tuning chose for the schemes that this one may follow.
        random_state : int
            Of the network.

        Returns
        -------
        dict
        """
        params = {
            "l2_budget": None,
            **self.schemes[scheme],
            "learning_rate_init": self.learning_rate(scheme, setting),
            "random_state": random_state,
        }
        if params.get("dropout") == TUNED:
            params["dropout"] = setting["dropout"]
        network = clone(self.network).set_params(**{name: value for name, value in params.items() if name != "l2"})
        # the strength, not the budget, is what follows: at another learning rate the same budget is another strength
        if (reference := self.reference(scheme)) is not None:
            followed = self.params(reference, chosen[reference], n_rows, chosen, random_state)
            params["l2"] = params["l2"].factor * self.strength(followed, n_rows)
        if "l2" in params or params["l2_budget"] is not None:
            return params
        if not any(l2_by_role(1.0, network.l2_targets).values()):
            return params | {"l2": 0.0}
        if SOLVERS[network.solver].has_budget(network.l2_mode):
            return params | {"l2_budget": setting["budget"]}
        return params | {"l2": setting["loss_l2"]}

    def strength(self, params: Mapping[str, Any], n_rows: int) -> float:
        """Return the l2 of a network of these parameters; nan for one strength per role."""
        known = self.network.get_params() | dict(params)
        if known["l2_budget"] is not None:
            return clone(self.network).set_params(**known).l2_for_budget(known["l2_budget"], n_rows)
        return float("nan") if isinstance(known["l2"], Mapping) else float(known["l2"])

    def budget(self, scheme: str, params: Mapping[str, Any], setting: Setting) -> float:
        """Return the decay budget that a candidate was meant to have; nan where the scheme names l2 or none exists."""
        known = self.network.get_params() | dict(params)
        has_budget = SOLVERS[known["solver"]].has_budget(known["l2_mode"])
        if self.schemes[scheme].keys() & {"l2", "l2_budget"} or (not has_budget and known["l2"]):
            return float("nan")
        return setting["budget"] if any(l2_by_role(1.0, known["l2_targets"]).values()) else 0.0

    def signature(self, params: Mapping[str, Any]) -> str:
        """Return what the training of a network depends on, as text: equal for networks that mean the same."""
        known = self.network.get_params() | dict(params)
        budget, l2 = known.pop("l2_budget"), known.pop("l2")
        strengths = l2_by_role(l2 if budget is None else budget, known.pop("l2_targets"))
        strengths |= dict.fromkeys(lacking_roles(batch_norm=known["batch_norm"]), 0.0)
        if not any(strengths.values()):
            del known["l2_mode"]
            budget = None
        return repr((sorted(known.items()), strengths, budget is None))

    def n_different(self, params: Sequence[Mapping[str, Any]]) -> int:
        """Return how many different networks these parameters mean."""
        return len({self.signature(each) for each in params})


@cache
def _spread_points(n: int, seed: int) -> np.ndarray:
    """Return n points in the unit square, evenly spaced on either axis; kept, as scipy may take a second for them."""
    return qmc.LatinHypercube(2, scramble=False, optimization="random-cd", rng=seed).random(n)
