"""Other packages' private functions, under names of our own.

Nothing else in this package calls what another keeps to itself. Each section names the release with which it was
checked (that of constraints.txt); the tests go through all of them, so they show it if a release changes one. What to
do instead if one goes stands beside it. A package that is not always installed is imported where it is used.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import BaseEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.model_selection._validation import _score as score
from sklearn.model_selection._validation import _warn_or_raise_about_fit_failures as warn_or_raise_about_fit_failures
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as num_samples
from skorch import NeuralNet
from torch import Tensor

if TYPE_CHECKING:
    import optuna

# scikit-learn 1.9.1: its own searches, splits and checks, so that ours do the same. Instead: `cross_validate` for
# `fit_and_score`, `get_scorer` for `score`, plain comparisons for the rules of parameters.

__all__ = [
    "BaseSearchCV", "Documented", "HasMethods", "Interval", "NamesOnce", "Options", "StrOptions", "add_param_group",
    "check_method_params", "check_partial_fit_first_call", "check_sample_weight", "fit_and_score", "fused_adamw",
    "has_callbacks", "init_context", "initialize_callbacks", "lerp_all", "listens", "num_samples", "optimizing",
    "safe_indexing", "score", "scorers_of", "storage_of", "trial_id", "validate_parameter_constraints",
    "warn_or_raise_about_fit_failures", "words_of_nothing",
]  # fmt: skip


def has_callbacks(estimator: BaseEstimator) -> bool:
    """Tell whether an estimator has been given callbacks of scikit-learn's. Instead: have them on a search alone."""
    return hasattr(estimator, "_skl_callbacks")


def listens(context: Any) -> bool:
    """Tell whether anybody hears of a callback context's tasks. Instead: tell of every epoch, heard or not."""
    return bool(context._callbacks)


def scorers_of(scorer: Any) -> Any:
    """Return the scorers by name of one that has several, or the one. Instead: ``search.scoring``'s names."""
    return getattr(scorer, "_scorers", scorer)


class NamesOnce:
    """Has an estimator's parameters named once: reading the signature each time takes a quarter of a tiny fit.

    Instead: nothing, and scikit-learn reads it each time.
    """

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        return super()._get_param_names()  # type: ignore[misc]


DOCUMENTATION = ""  # where the pages of docs/ are published: not yet; docs/conf.py sets it for its own examples


class Documented:
    """Has HTML representations of estimators link to their page and their parameters there.

    Instead: nothing, and they link nowhere.
    """

    _doc_link_module = "sk_bnreg"

    @property
    def _doc_link_template(self) -> str:
        return DOCUMENTATION and f"{DOCUMENTATION}/api/sk_bnreg.{{name}}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"name": type(self).__name__}


# torch 2.13.0


def fused_adamw(
    parameters: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    *,
    lr: float,
    weight_decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Take AdamW's step as one kernel, in place; `step` counts from 1.

    It is `torch.optim.AdamW(fused=True)` without the optimizer around it, which takes one learning rate for all
    parameters. Instead: the same update by `lerp_`, `mul_`, `addcmul_` and `addcdiv_`, in more passes over memory.
    """
    torch._fused_adamw_(
        [parameters],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=lr,
        weight_decay=weight_decay,
        beta1=beta_1,
        beta2=beta_2,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )


def lerp_all(values: list[Tensor], targets: list[Tensor], share: float) -> None:
    """Move tensors a share of the way to others, in one call. Instead: ``lerp_`` of each."""
    torch._foreach_lerp_(values, targets, share)


def add_param_group(optimizer: torch.optim.Optimizer, param_group: dict[str, Any]) -> None:
    """Add a group as torch does, but import no compiler for it, which takes a second of a first fit.

    Instead: `Optimizer.add_param_group`.
    """
    add = torch.optim.Optimizer.add_param_group
    getattr(add, "__wrapped__", add)(optimizer, param_group)


# skorch 1.4.0


def init_context(net: NeuralNet, name: str) -> AbstractContextManager[None]:
    """Return a context in which what is set on a net is known to be its optimizer, or whatever `name` says.

    Instead: `NeuralNet.initialize`, and the weights put back after it.
    """
    return net._current_init_context(name)


def initialize_callbacks(net: NeuralNet) -> None:
    """Make ``net.callbacks_`` of the callbacks that are set now. Instead: as for `init_context`."""
    net._initialize_callbacks()


# optuna 5.0.0


def storage_of(study: "optuna.Study") -> tuple[Any, int]:
    """Return a study's storage and its number there. Instead: the storage that the study was made with."""
    return study._storage, study._study_id


def trial_id(trial: "optuna.Trial | optuna.trial.FrozenTrial") -> int:
    """Return a trial's number in its storage, which `Trial` and the storages ask for. Instead: there is nothing."""
    return trial._trial_id


@contextmanager
def optimizing(study: "optuna.Study") -> Iterator[Callable[[], bool]]:
    """Let callbacks within call ``study.stop()``; yield what tells whether one has. Instead: `Study.optimize`."""
    study._thread_local.in_optimize_loop = True
    study._stop_flag = False
    yield lambda: study._stop_flag
    study._thread_local.in_optimize_loop = False


# skrub 0.11.0


def words_of_nothing() -> list[str]:
    """Return what a skrub encoder takes for a missing value when it stands in a text. Instead: a list of our own."""
    from skrub._clean_null_strings import STR_NA_VALUES

    return STR_NA_VALUES
