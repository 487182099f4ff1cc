"""search_space and suggest: what of a network is worth tuning, as Optuna distributions, and one trial's values."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sk_bnreg.engine.solvers import SOLVERS
from sk_bnreg.estimators.checks import check_params
from sk_bnreg.estimators.pipelines import network_in

PRESETS = ("regularization", "default", "wide")


def search_space(estimator: Any, preset: str = "default") -> dict[str, BaseDistribution]:
    """Return Optuna distributions for a network's parameters.

    L2 is expressed as decay budget D (`l2_budget`), so that the learning rate and the penalty
    are tuned apart: the same `l2` decays ten times as much at ten times the rate. Values are
    text, numbers and booleans, which every storage keeps.

    Parameters
    ----------
    estimator : estimator
        A BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that
        ends in one; names get the prefix that it needs, such as ``bnmlpclassifier__``.
    preset : {"default", "regularization", "wide"}, default="default"
        "regularization": `learning_rate_init`, `batch_norm`, `l2_targets` and `l2_budget`.
        "default": `dropout` too, and with an embedding its form and `frequency_init_scale`. "wide":
        `hidden_layer_sizes`, `activation`, `batch_size` and the schedule too.

    Returns
    -------
    dict of str to optuna.distributions.BaseDistribution
        For `StackedOptunaSearchCV`, `OptunaSearchCV` or `suggest`; a plain dict, to change.

    Raises
    ------
    ValueError
        If there is no network in `estimator`, or no such preset.

    Examples
    --------
    >>> from sk_bnreg import BNMLPClassifier, search_space
    >>> sorted(search_space(BNMLPClassifier(), preset="regularization"))
    ['batch_norm', 'l2_budget', 'l2_targets', 'learning_rate_init']
    """
    network, path = network_in(estimator)
    if network is None:
        raise ValueError(
            "estimator must be a BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that "
            f"ends in one, got {estimator!r}."
        )
    check_params(network)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}.")
    solver = SOLVERS[network.solver]
    space: dict[str, BaseDistribution] = {
        "learning_rate_init": FloatDistribution(*solver.rate_range, log=True),
        "batch_norm": CategoricalDistribution([False, True]),
        "l2_targets": CategoricalDistribution(["none", "weights", "weights+gamma+beta", "all"]),
    }
    if solver.has_budget(network.l2_mode):
        space["l2_budget"] = FloatDistribution(0.03, 10.0, log=True)
    else:
        space["l2"] = FloatDistribution(1e-6, 1e-2, log=True)
    if preset != "regularization":
        space["dropout"] = FloatDistribution(0.0, 0.5, step=0.05)
        if network.numeric_embedding is not None:
            space["numeric_embedding"] = CategoricalDistribution(["periodic", "piecewise-linear"])
            space["frequency_init_scale"] = FloatDistribution(0.05, 2.0, log=True)
    if preset == "wide":
        space |= {
            "hidden_layer_sizes": CategoricalDistribution(["64-64-64", "128-128", "128-128-128", "256-256"]),
            "activation": CategoricalDistribution(["relu", "gelu", "silu"]),
            "batch_size": CategoricalDistribution([64, 128, 256]),
            "learning_rate": CategoricalDistribution(["one-cycle", "cosine"]),
        }
    return {f"{path}__{name}" if path else name: distribution for name, distribution in space.items()}


def suggest(trial: Any, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Let a trial suggest a value for every entry of a search space.

    Parameters
    ----------
    trial : optuna.Trial
    space : dict of str to optuna.distributions.BaseDistribution

    Returns
    -------
    dict
        For ``set_params``.

    Examples
    --------
    >>> import optuna
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from sk_bnreg import BNMLPClassifier, search_space, suggest
    >>> X, y = load_iris(return_X_y=True)
    >>> network = BNMLPClassifier((16,), random_state=0)
    >>> space = search_space(network, "regularization")
    >>> def objective(trial):
    ...     return cross_val_score(network.set_params(**suggest(trial, space)), X, y).mean()
    >>> study = optuna.create_study(direction="maximize")
    >>> study.optimize(objective, n_trials=2)
    >>> len(study.trials)
    2
    """
    if not isinstance(space, Mapping):
        raise TypeError(f"space must be a dict of Optuna's distributions, such as search_space makes, got {space!r}.")
    values = {}
    for name, distribution in space.items():
        match distribution:
            case CategoricalDistribution():
                values[name] = trial.suggest_categorical(name, distribution.choices)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                values[name] = trial.suggest_float(name, low, high, step=step, log=log)
            case IntDistribution(low=low, high=high, step=step, log=log):
                values[name] = trial.suggest_int(name, low, high, step=step, log=log)
            case _:
                raise ValueError(f"A search space holds Optuna's distributions, got {name}={distribution!r}.")
    return values
