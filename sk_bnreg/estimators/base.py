"""What BNMLPClassifier and BNMLPRegressor share: parameters, `fit`, fitted attributes."""

import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, MultiOutputMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback

from sk_bnreg.borrowed import Documented, Interval, NamesOnce, Options, StrOptions, listens
from sk_bnreg.engine.functions import ACTIVATIONS
from sk_bnreg.engine.roles import ROLES
from sk_bnreg.engine.rows import batch_bounds
from sk_bnreg.engine.solvers import L2_MODES, LEARNING_RATES, SOLVERS
from sk_bnreg.engine.tasks import DIVERGED, train_tasks
from sk_bnreg.estimators.checks import check_params, check_table, is_number
from sk_bnreg.estimators.preparation import (
    DTYPES,
    adopt,
    as_table,
    batch_size_for,
    l2_of_steps,
    make_tasks,
    n_rows_aside,
)


def trains_on(network):
    """Tell whether a network can go on with some rows after others; for `available_if`."""
    lbfgs = isinstance(network.solver, str) and network.solver == "lbfgs"
    return not lbfgs and network.members is None


class RoleReport(NamedTuple):
    """A row of `l2_report_`: the L2 of one role."""

    role: str
    n_parameters: int
    strength: float
    budget: float


class BaseBNMLP(NamesOnce, Documented, CallbackSupportMixin, MultiOutputMixin, BaseEstimator):
    """The estimators without what differs between classes and numbers."""

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", str, Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "batch_norm": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "l2": [Real, Mapping],
        "l2_budget": [None, Interval(Real, 0, None, closed="left")],
        "l2_targets": [str, tuple, list],
        "l2_mode": [StrOptions(set(L2_MODES))],
        "solver": [StrOptions({*SOLVERS, "lbfgs"})],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, 10**7, closed="both")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "batch_norm_eps": [Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_ensemble": [Interval(Integral, 1, 10**5, closed="both")],
        "members": [None, list, tuple],
        "numeric_embedding": [StrOptions({"auto", "periodic", "piecewise-linear"}), None],
        "frequency_init_scale": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "dtype": [StrOptions(set(DTYPES))],
        "callbacks": [None, list, tuple],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes=(64, 64, 64),
        activation="relu",
        *,
        batch_norm=True,
        dropout=0.0,
        l2=1.0,
        l2_budget=None,
        l2_targets="weights",
        l2_mode="decoupled",
        solver="adam",
        batch_size="auto",
        learning_rate="one-cycle",
        learning_rate_init=0.01,
        max_iter=60,
        momentum=0.9,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_norm_eps=1e-5,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=np.inf,
        tol=1e-4,
        n_ensemble=8,
        members=None,
        numeric_embedding="auto",
        frequency_init_scale="auto",
        warm_start=False,
        random_state=None,
        device="cpu",
        dtype="float32",
        callbacks=None,
        verbose=False,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.l2 = l2
        self.l2_budget = l2_budget
        self.l2_targets = l2_targets
        self.l2_mode = l2_mode
        self.solver = solver
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.momentum = momentum
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.batch_norm_eps = batch_norm_eps
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.n_ensemble = n_ensemble
        self.members = members
        self.numeric_embedding = numeric_embedding
        self.frequency_init_scale = frequency_init_scale
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose

    @with_callbacks
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Fit the network to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features: numbers, none missing.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights. They weigh the loss and the moments of batch norm; only their
            ratios matter, and a row of weight zero is as good as absent.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows for early stopping, in place of a fraction of `X`. In a `Pipeline`, use
            ``transform_input=["X_val"]``.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            The target of `X_val`.
        sample_weight_val : array-like of shape (n_val,), default=None
            The weights of `X_val`.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        metadata = {"sample_weight": sample_weight}
        context = self._init_callback_context(max_subtasks=self.max_iter)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=metadata)
        tasks = make_tasks(self, X, y, sample_weight, (X_val, y_val, sample_weight_val))
        # skorch's machinery is the way to epochs; without callbacks it is spared
        if listens(context):
            tasks[0].hooks.append(_EpochTasks(context, self, X, y, metadata))
        self._train(tasks)
        # with early stopping the best epoch is kept, whatever came after
        unstopped = self.n_iter_ == self.max_iter and self.validation_loss_curve_ is None
        if self.learning_rate == "constant" and unstopped:
            warnings.warn(
                f"After max_iter={self.max_iter} epochs at a constant learning rate training had not converged: no "
                "n_iter_no_change epochs passed without an improvement.",
                ConvergenceWarning,
                stacklevel=3,
            )
        context.call_on_fit_task_end(estimator=self, X=X, y=y, metadata=metadata)
        return self

    def l2_for_budget(self, budget, n_samples):
        """Return the `l2` with which a fit of so many rows would have this decay budget.

        The budget D is the sum of lr * l2 over the steps, the e-folds by which decay
        alone would shrink a parameter: far below 1 the penalty does nothing. Stopping
        early lowers it.

        Parameters
        ----------
        budget : float
            D.
        n_samples : int
            Rows that `fit` will be given.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            For Adam with ``l2_mode="loss"``, where no budget exists.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sk_bnreg import BNMLPClassifier
        >>> net = BNMLPClassifier(random_state=0)
        >>> net = net.set_params(l2=net.l2_for_budget(0.5, n_samples=150)).fit(*load_iris(return_X_y=True))
        >>> round(net.l2_report_[0].budget, 6)
        0.5
        """
        check_params(self)
        if not is_number(budget) or not 0 <= budget < np.inf:
            raise ValueError(f"budget must be a finite number >= 0, got {budget!r}.")
        if not isinstance(n_samples, Integral) or not 1 <= n_samples < 2**63:
            raise ValueError(f"n_samples must be a number of rows, at least 1, got {n_samples!r}.")
        n_train = n_samples - n_rows_aside(self, n_samples)
        if n_train < 1:
            raise ValueError(f"n_samples must be more than early stopping sets aside, got {n_samples}.")
        return l2_of_steps(self, budget, len(batch_bounds(n_train, batch_size_for(self, n_train))) - 1)

    def _partial_fit(self, X, y, sample_weight, classes=None):
        if self.early_stopping is True:
            raise ValueError("partial_fit does not support early_stopping=True; use 'auto' or False.")
        return self._train(make_tasks(self, X, y, sample_weight, classes=classes, epochs=1))

    def _train(self, tasks):
        nets = train_tasks({0: tasks})[0]
        if nets is None:
            self.__dict__.pop("nets_", None)
            raise ValueError(DIVERGED)
        adopt(self, nets, tasks)
        return self

    @config_context(array_api_dispatch=False)
    def _outputs(self, X):
        """Return the network's outputs, ``(M, C, n_samples)``, in float64."""
        check_is_fitted(self)
        table = as_table(check_table(self, X, reset=False), "cpu")
        return np.concatenate([net.outputs(table).double().numpy() for net in self.nets_])

    def _blocks(self, role):
        check_is_fitted(self)
        module = self.net_.module_
        return [part[0].cpu().numpy() for part in module.blocks(module.theta.data)[role]]

    @property
    def net_(self):
        """The skorch net of all members, or of `members` the first one's."""
        check_is_fitted(self)
        return self.nets_[0]

    @property
    def loss_(self):
        """The training loss of the last epoch."""
        return self.loss_curve_[-1]

    @property
    def best_loss_(self):
        """The least training loss; None with early stopping."""
        return None if self.validation_loss_curve_ else min(self.loss_curve_)

    @property
    def validation_scores_(self):
        """Minus the validation loss after each epoch; None without early stopping."""
        return self.validation_loss_curve_ and [-loss for loss in self.validation_loss_curve_]

    @property
    def best_validation_score_(self):
        """The greatest of `validation_scores_`; None without early stopping."""
        return self.validation_scores_ and max(self.validation_scores_)

    @property
    def n_layers_(self):
        """Layers, the inputs counted as one."""
        return len(self.structure_.hidden_layer_sizes) + 2

    @property
    def n_outputs_(self):
        """Units of the last layer."""
        return self.structure_.n_outputs

    @property
    def out_activation_(self):
        """What makes predictions of the last layer's outputs."""
        return {"binary": "logistic", "multiclass": "softmax", "squared": "identity"}[self.structure_.loss]

    @property
    def coefs_(self):
        """Weights of each layer of the first member: list of arrays of shape (n_in, n_out)."""
        check_is_fitted(self)
        layers = self.net_.module_.layers(self.net_.module_.theta.data)
        return [layer.weight[0].cpu().numpy().T for layer in layers]

    @property
    def intercepts_(self):
        """Biases of the first member: of every layer, or with batch norm of the output layer alone."""
        return self._blocks("biases")

    @property
    def gammas_(self):
        """Scales of batch norm of the first member, an array per hidden layer."""
        return self._blocks("gamma")

    @property
    def betas_(self):
        """Shifts of batch norm of the first member, an array per hidden layer."""
        return self._blocks("beta")

    @property
    def l2_report_(self):
        """What L2 did to each role of the first member: a `RoleReport` per role."""
        check_is_fitted(self)
        net = self.net_
        member, record = net.members[0], net.records_[0]
        budgets = record.budgets[record.best_iter - 1]
        sizes = {role: columns.stop - columns.start for role, columns in net.module_.slices.items()}
        return [RoleReport(role, sizes[role], member.l2[role], float(budgets[role])) for role in ROLES]

    def __sklearn_is_fitted__(self):
        return hasattr(self, "nets_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class _EpochTasks(Callback):
    """Tells scikit-learn's callbacks about epochs."""

    def __init__(self, context, estimator, X, y, metadata):
        self.context, self.estimator = context, estimator
        self.data = {"X": X, "y": y, "metadata": metadata}

    def on_epoch_begin(self, net, **kwargs):
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, net, **kwargs):
        stop = self.epoch.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=lambda: {"nets_": [net.snapshot()]}, **self.data
        )
        if stop:
            raise KeyboardInterrupt
