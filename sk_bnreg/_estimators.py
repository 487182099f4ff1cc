"""BNMLPClassifier and BNMLPRegressor: scikit-learn estimators on the stacked engine."""

import copy
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from skorch.callbacks import Callback

from sk_bnreg._fit import DIVERGED, Structure, Task, train
from sk_bnreg._net import Rows, batch_bounds
from sk_bnreg._optim import L2_MODES, LEARNING_RATES, SOLVERS, Member, decay_budgets, learning_rates
from sk_bnreg._roles import ROLES, l2_by_role
from sk_bnreg._stack import ACTIVATIONS

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class RoleReport(NamedTuple):
    """A row of `l2_report_`: the L2 of one role."""

    role: str
    n_parameters: int
    strength: float
    budget: float


class _BNMLP(CallbackSupportMixin, MultiOutputMixin, BaseEstimator):
    """What the classifier and the regressor share."""

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "batch_norm": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "l2": [Real, Mapping],
        "l2_targets": [str, tuple, list],
        "l2_mode": [StrOptions(set(L2_MODES))],
        "solver": [StrOptions({*SOLVERS, "lbfgs"})],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "batch_norm_eps": [Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_ensemble": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "dtype": [StrOptions(set(DTYPES))],
        "callbacks": [None, list, tuple],
        "verbose": ["verbose"],
    }

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
        task = self._make_task(X, y, sample_weight, validation=(X_val, y_val, sample_weight_val))
        if context._callbacks:
            task.hooks.append(_EpochTasks(context, self, X, y, metadata))
        self._train(task)
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
        if self.l2_mode == "loss" and self.solver == "adam":
            raise ValueError("l2_mode must be 'decoupled' or solver 'sgd' for a decay budget to exist, got 'loss' with 'adam'.")
        if self.early_stopping is True or (self.early_stopping == "auto" and n_samples > 10_000):
            n_samples -= int(np.ceil(self.validation_fraction * n_samples))
        n_steps = self.max_iter * (len(batch_bounds(n_samples, self._batch_size(n_samples))) - 1)
        rate_sum = learning_rates(self.learning_rate, self.learning_rate_init, n_steps).sum()
        factor = 1 / (1 - self.momentum) if self.l2_mode == "loss" else 1.0
        return float(budget / (rate_sum * factor))

    def _batch_size(self, n_rows):
        return min(200 if self.batch_size == "auto" else self.batch_size, n_rows)

    def _partial_fit(self, X, y, sample_weight, classes=None):
        if self.early_stopping is True:
            raise ValueError("partial_fit does not support early_stopping=True; use 'auto' or False.")
        return self._train(self._make_task(X, y, sample_weight, classes=classes, epochs=1))

    def _train(self, task):
        if train([task]):
            raise ValueError(DIVERGED)
        return self

    def _make_task(
        self,
        X,
        y,
        sample_weight,
        *,
        rows=None,
        monitor_rows=None,
        validation=(None, None, None),
        table=None,
        classes=None,
        epochs=None,
    ):
        """Check parameters and data, once; return what `train` needs.

        `table` is `X` as an earlier call left it; `epochs` marks a `partial_fit`.
        """
        self._check_params()
        resumed = getattr(self, "net_", None) if self.warm_start or epochs else None
        if table is None:
            X, y = validate_data(self, X, y, reset=resumed is None, multi_output=True, **self._array_rules())
            table = _as_table(X, self.device)
        else:
            validate_data(self, X, reset=resumed is None, skip_check_array=True)
        y = self._check_target(X, y)
        index = np.arange(table.shape[0]) if rows is None else rows
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if weight is not None:
            index = index[weight[index] > 0]
            weight = weight[index]
        if resumed is None:
            self._learn_target(y[index], weight, classes)

        rng = check_random_state(self.random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=self.n_ensemble)
        train_rows = self._rows(table, index, y[index], self._add_class_weight(y[index], weight))
        valid_rows = self._validation_rows(*validation)
        stopping = self.early_stopping is True or (
            self.early_stopping == "auto" and (len(index) > 10_000 or valid_rows is not None)
        )
        if valid_rows is not None and not stopping:
            raise ValueError("early_stopping must be True or 'auto' when X_val and y_val are given, got False.")
        stopping = stopping and not epochs
        if stopping and valid_rows is None:
            train_rows, valid_rows = self._split(train_rows, rng)
        monitor = None
        if monitor_rows is not None:
            known = monitor_rows[self._is_known(y[monitor_rows])]
            monitor = self._rows(table, known, y[known], None)

        structure = self._structure(table.shape[1], len(train_rows.index))
        if resumed is not None and structure[:-2] != self._trained_structure[:-2]:
            raise ValueError(
                "warm_start and partial_fit go on with the network as it is: of its parameters only dropout, l2, "
                "l2_targets, l2_mode, learning_rate, learning_rate_init and those of the stopping rule may change."
            )
        return Task(
            estimator=self,
            structure=structure,
            members=self._members(seeds, stopping),
            train=train_rows,
            valid=valid_rows,
            monitor=monitor,
            net=resumed,
            epochs=epochs,
            callbacks=list(self.callbacks or ()),
            verbose=bool(self.verbose),
        )

    def _check_params(self):
        self._validate_params()
        if self.solver == "lbfgs":
            raise ValueError(
                "solver must be 'adam' or 'sgd', got 'lbfgs', which needs all rows in every step and has no counterpart here."
            )
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_size must be at least 2 with batch_norm=True, or 'auto', got 1.")
        sizes = self._hidden_sizes()
        if not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be integers > 0, got {self.hidden_layer_sizes!r}.")

    def _hidden_sizes(self):
        sizes = self.hidden_layer_sizes
        return (sizes,) if isinstance(sizes, Integral) else tuple(sizes)

    def _array_rules(self):
        return {"dtype": getattr(np, self.dtype), "order": "C", "accept_sparse": "csr"}

    def _check_target(self, X, y):
        y = check_array(
            y.toarray() if sparse.issparse(y) else y,
            ensure_2d=False,
            dtype="numeric" if isinstance(self, RegressorMixin) else None,
            input_name="y",
            estimator=self,
        )
        check_consistent_length(X, y)
        return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _rows(self, table, index, y, weight):
        """Collect a member's rows; equal weights are as good as none, and faster."""
        if weight is not None:
            weight = None if np.ptp(weight) == 0 else torch.as_tensor(weight, dtype=DTYPES[self.dtype])
        target = self._encode(y)
        if target.is_floating_point():
            target = target.to(DTYPES[self.dtype])
        parts = (torch.as_tensor(index, dtype=torch.int64), target, weight)
        return Rows(table, *(None if part is None else part.to(self.device) for part in parts))

    def _validation_rows(self, X_val, y_val, sample_weight_val):
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val must be given together, got only one of them.")
        X_val = validate_data(self, X_val, reset=False, **self._array_rules())
        y_val = self._check_target(X_val, y_val)
        weight = None if sample_weight_val is None else _check_sample_weight(sample_weight_val, X_val)
        return self._rows(_as_table(X_val, self.device), np.arange(X_val.shape[0]), y_val, weight)

    def _split(self, rows, rng):
        """Take the early-stopping fraction out of the training rows."""
        codes = rows.target.reshape(len(rows.target), -1).cpu().numpy()
        values, counts = np.unique(codes, return_counts=True, axis=0) if self._stratified() else ((), (0,))
        n_valid = int(np.ceil(self.validation_fraction * len(codes)))
        stratify = codes if min(counts) >= 2 and len(values) <= min(n_valid, len(codes) - n_valid) else None
        parts = train_test_split(
            np.arange(len(codes)), test_size=self.validation_fraction, random_state=rng, stratify=stratify
        )
        return [
            Rows(rows.table, rows.index[part], rows.target[part], None if rows.weight is None else rows.weight[part])
            for part in map(torch.from_numpy, parts)
        ]

    def _structure(self, n_features, n_rows):
        size = self._batch_size(n_rows)
        n_batches = len(batch_bounds(n_rows, size)) - 1
        names = ("beta_1", "beta_2", "epsilon") if self.solver == "adam" else ("momentum",)
        loss, n_outputs = self._loss()
        return Structure(
            n_features=n_features,
            hidden_layer_sizes=self._hidden_sizes(),
            n_outputs=n_outputs,
            activation=self.activation,
            batch_norm=self.batch_norm,
            batch_norm_eps=self.batch_norm_eps,
            loss=loss,
            solver=self.solver,
            constants=tuple((name, getattr(self, name)) for name in names),
            dtype=DTYPES[self.dtype],
            device=str(self.device),
            batch_size=-1 if n_batches == 1 else size,
            n_batches=n_batches,
        )

    def _members(self, seeds, stopping):
        l2 = l2_by_role(self.l2, self.l2_targets)
        empty = {"gamma", "beta"} if not self.batch_norm or not self._hidden_sizes() else set()
        if any(l2.values()) and not any(strength for role, strength in l2.items() if role not in empty):
            warnings.warn(
                f"L2 has nothing to penalise: without batch norm there is no gamma and beta, and "
                f"l2_targets={self.l2_targets!r} names nothing else.",
                stacklevel=4,
            )
        return [
            Member(
                seed=int(seed),
                learning_rate=self.learning_rate,
                learning_rate_init=self.learning_rate_init,
                l2=l2,
                l2_mode=self.l2_mode,
                dropout=self.dropout,
                max_iter=self.max_iter,
                early_stopping=stopping,
                n_iter_no_change=self.n_iter_no_change,
                tol=self.tol,
            )
            for seed in seeds
        ]

    def _adopt(self, net, task):
        """Take over the net of a finished training."""
        record = net.records_[0]
        self.net_ = net
        self.n_iter_ = len(record.train_loss)
        self.best_iter_ = record.best_iter
        self.loss_curve_ = record.train_loss
        self.validation_loss_curve_ = record.valid_loss or None
        self._trained_structure = task.structure

    def _outputs(self, X):
        """Return the network's outputs, ``(M, C, n_samples)``, in float64."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, **self._array_rules())
        return self.net_.outputs(_as_table(X, "cpu")).double().numpy()

    def _blocks(self, role):
        check_is_fitted(self)
        module = self.net_.module_
        return [part[0].cpu().numpy() for part in module.blocks(module.theta.data)[role]]

    @property
    def coefs_(self):
        """Weights of each layer of the first member: list of arrays of shape (n_in, n_out)."""
        return [weight.T for weight in self._blocks("hidden_weights") + self._blocks("output_weights")]

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
        budgets = decay_budgets(member, record.rate_sum[record.best_iter - 1], net.optimizer_.loss_factor())
        sizes = {role: columns.stop - columns.start for role, columns in net.module_.slices.items()}
        return [RoleReport(role, sizes[role], member.l2[role], float(budgets[role])) for role in ROLES]

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
            estimator=self.estimator, reconstruction_attributes=lambda: {"net_": net.snapshot()}, **self.data
        )
        if stop:
            raise KeyboardInterrupt


def _as_table(X, device):
    """Return a checked array as a tensor on the device without copying where it can, CSR as it is."""
    if sparse.issparse(X):
        return X
    return torch.from_numpy(X if X.flags.writeable else X.copy()).to(device)


class BNMLPClassifier(ClassifierMixin, _BNMLP):
    """Multilayer perceptron classifier with batch norm and L2 on the parameters of your choice.

    It minimises the log loss (one logit for two classes, a softmax for more, a logit per
    label for multilabel targets) plus, for each role of parameters,
    ``l2 / 2 * ||theta_role||^2``. Arguments that `sklearn.neural_network.MLPClassifier`
    has too mean the same here, but ``alpha``: there the penalty is divided by the rows of
    a batch, so ``l2 = alpha / batch_size`` with ``l2_mode="loss"``.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(128, 128)
        Units of each hidden layer; () is a linear model.
    activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
        Activation of the hidden layers.
    batch_norm : bool, default=True
        Normalise each hidden layer over the batch before its activation, with a scale
        gamma and a shift beta per unit (Ioffe & Szegedy 2015). Predictions use running
        statistics: the mean over the first ten steps, then with momentum 0.1.
    dropout : float, default=0.0
        Share of hidden units dropped in training, in [0, 1).
    l2 : float or mapping of role to float, default=1.0
        Strength of the penalty ``l2 / 2 * ||theta||^2``, whose gradient is l2 * theta
        (torch's ``weight_decay``); it does not depend on the batch size. A mapping gives
        each role its own strength, and `l2_targets` is not consulted.
    l2_targets : {"weights", "weights+gamma+beta", "all", "none"} or tuple of roles, default="weights"
        What `l2` penalises. The roles are "hidden_weights", "output_weights" (together
        "weights"), "biases", "gamma" and "beta". A role that the network lacks is empty.
    l2_mode : {"decoupled", "loss"}, default="decoupled"
        "decoupled": theta -= lr * l2 * theta beside the solver's step (AdamW). "loss": the
        penalty's gradient goes through the solver; with Adam, each parameter's decay is then
        divided by the scale of its own gradient, and a good `l2` is a thousand times smaller.
    solver : {"adam", "sgd"}, default="adam"
        The solver; "sgd" is with momentum.
    batch_size : int or "auto", default="auto"
        Rows of a minibatch; "auto" is min(200, rows). A last batch of one row joins the
        batch before it.
    learning_rate : {"constant", "cosine", "one-cycle"}, default="one-cycle"
        Schedule of the learning rate over `max_iter` epochs; `learning_rate_init` is
        its largest value.
    learning_rate_init : float, default=0.01
        Largest learning rate.
    max_iter : int, default=30
        Epochs; at most, where training can stop early.
    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1).
    beta_1 : float, default=0.9
        Decay of Adam's first moment.
    beta_2 : float, default=0.999
        Decay of Adam's second moment.
    epsilon : float, default=1e-8
        Adam's guard against division by zero.
    batch_norm_eps : float, default=1e-5
        Added to the variance in batch norm.
    early_stopping : bool or "auto", default="auto"
        Stop when the validation loss no longer improves, and keep the best epoch's
        weights. "auto" does so with more than 10,000 rows or when `X_val` is given.
    validation_fraction : float, default=0.1
        Share of the rows set aside for early stopping.
    n_iter_no_change : int, default=10
        Epochs without an improvement of the validation loss by `tol` before training
        stops; without early stopping, of the training loss, if the learning rate is
        constant.
    tol : float, default=1e-4
        The least improvement of the loss that counts.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with `sample_weight`; "balanced" counts
        classes by their sample weight.
    n_ensemble : int, default=1
        Networks trained from different seeds in one stack; predictions are their mean.
    warm_start : bool, default=False
        Go on from the weights of the last `fit`, with a new schedule and solver state.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, row order, dropout and the early-stopping rows.
    device : str or torch.device, default="cpu"
        Where to train and predict, such as "cuda".
    dtype : {"float32", "float64"}, default="float32"
        Precision of the computation.
    callbacks : list of skorch callbacks or None, default=None
        Given to the skorch net `net_`. They see a row per epoch in ``net.history``, with
        "train_loss" and, with early stopping, "valid_loss".
    verbose : bool, default=False
        Print the loss after every epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    net_ : skorch.NeuralNet
        The trained net: ``net_.history``, ``net_.save_params``, ``net_.module_``.
    n_iter_ : int
        Epochs trained.
    best_iter_ : int
        Epochs after which the kept weights were reached; `n_iter_` without early stopping.
    loss_curve_ : list of float
        Mean training loss of each epoch; with ``l2_mode="loss"`` the penalty at its end
        is included.
    validation_loss_curve_ : list of float or None
        Validation loss after each epoch; None without early stopping.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer; with batch norm of the output layer alone.
    gammas_, betas_ : list of ndarray of shape (n_units,)
        Scales and shifts of batch norm.
    l2_report_ : list of RoleReport
        For each role its number of parameters, L2 strength and decay budget, the sum of
        lr * l2 over the steps: the e-folds by which decay alone would have shrunk it.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if `X` had any.

    Notes
    -----
    With `n_ensemble` > 1 the attributes from `n_iter_` to `l2_report_` are those of the first member.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), BNMLPClassifier(random_state=0))
    >>> bool(cross_val_score(model, X, y).mean() > 0.96)
    True
    """

    _parameter_constraints: dict = {
        **_BNMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(128, 128),
        activation="relu",
        *,
        batch_norm=True,
        dropout=0.0,
        l2=1.0,
        l2_targets="weights",
        l2_mode="decoupled",
        solver="adam",
        batch_size="auto",
        learning_rate="one-cycle",
        learning_rate_init=0.01,
        max_iter=30,
        momentum=0.9,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_norm_eps=1e-5,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        class_weight=None,
        n_ensemble=1,
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
        self.class_weight = class_weight
        self.n_ensemble = n_ensemble
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch at `learning_rate_init`, from where the last call ended.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The target.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        self : object
            The estimator.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' is not known before all rows are; give partial_fit a dict.")
        _check_partial_fit_first_call(self, classes)
        return self._partial_fit(X, y, sample_weight, self.classes_)

    def predict(self, X):
        """Predict the most probable class, or each label with a probability over 1/2.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        probability = self.predict_proba(X)
        if self._multilabel:
            return (probability > 0.5).astype(np.int64)
        return self.classes_[probability.argmax(axis=1)]

    def predict_proba(self, X):
        """Estimate probabilities, the mean over the ensemble's members.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
            Columns are in the order of `classes_`.
        """
        outputs = self._outputs(X)  # (M, C, n_samples)
        if self._loss()[0] == "multiclass":
            return softmax(outputs, axis=1).mean(axis=0).T
        probability = expit(outputs).mean(axis=0).T
        if self._multilabel:
            return probability
        if len(self.classes_) == 1:
            return np.ones_like(probability)
        return np.hstack([1 - probability, probability])

    def predict_log_proba(self, X):
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
        """
        return np.log(self.predict_proba(X))

    def _learn_target(self, y, weight, classes):
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError("y must have one column or be 0/1 labels, got several columns of classes.")
        self._multilabel = kind == "multilabel-indicator"
        if classes is not None:
            self.classes_ = np.asarray(classes)
        elif self._multilabel:
            self.classes_ = np.arange(y.shape[1])
        else:
            self.classes_ = np.unique(y)

    def _is_known(self, y):
        return np.ones(len(y), dtype=bool) if self._multilabel else np.isin(y, self.classes_)

    def _encode(self, y):
        if self._multilabel:
            return torch.as_tensor(y, dtype=torch.float64)
        if not self._is_known(y).all():
            unknown = sorted(set(np.unique(y)) - set(self.classes_))
            raise ValueError(f"y has classes {unknown} that are not in classes_={self.classes_}.")
        codes = torch.as_tensor(np.searchsorted(self.classes_, y), dtype=torch.int64)
        return codes if len(self.classes_) > 2 else codes[:, None].double()

    def _add_class_weight(self, y, weight):
        if self.class_weight is None:
            return weight
        if self._multilabel:
            by_row = compute_sample_weight(self.class_weight, y)
        else:
            by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weight)
            by_row = by_class[np.searchsorted(self.classes_, y)]
        return by_row if weight is None else by_row * weight

    def _stratified(self):
        return not self._multilabel

    def _loss(self):
        n_classes = len(self.classes_)
        if self._multilabel:
            return "binary", n_classes
        return ("binary", 1) if n_classes <= 2 else ("multiclass", n_classes)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class BNMLPRegressor(RegressorMixin, _BNMLP):
    """Multilayer perceptron regressor with batch norm and L2 on the parameters of your choice.

    It minimises half the mean squared error of the targets, which it standardises
    inside, plus, for each role of parameters, ``l2 / 2 * ||theta_role||^2``. Arguments that
    `sklearn.neural_network.MLPRegressor` has too mean the same here, but ``alpha``: there
    the penalty is divided by the rows of a batch, so ``l2 = alpha / batch_size`` with
    ``l2_mode="loss"``.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(128, 128)
        Units of each hidden layer; () is a linear model.
    activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
        Activation of the hidden layers.
    batch_norm : bool, default=True
        Normalise each hidden layer over the batch before its activation, with a scale
        gamma and a shift beta per unit (Ioffe & Szegedy 2015). Predictions use running
        statistics: the mean over the first ten steps, then with momentum 0.1.
    dropout : float, default=0.0
        Share of hidden units dropped in training, in [0, 1).
    l2 : float or mapping of role to float, default=1.0
        Strength of the penalty ``l2 / 2 * ||theta||^2``, whose gradient is l2 * theta
        (torch's ``weight_decay``); it does not depend on the batch size. A mapping gives
        each role its own strength, and `l2_targets` is not consulted.
    l2_targets : {"weights", "weights+gamma+beta", "all", "none"} or tuple of roles, default="weights"
        What `l2` penalises. The roles are "hidden_weights", "output_weights" (together
        "weights"), "biases", "gamma" and "beta". A role that the network lacks is empty.
    l2_mode : {"decoupled", "loss"}, default="decoupled"
        "decoupled": theta -= lr * l2 * theta beside the solver's step (AdamW). "loss": the
        penalty's gradient goes through the solver; with Adam, each parameter's decay is then
        divided by the scale of its own gradient, and a good `l2` is a thousand times smaller.
    solver : {"adam", "sgd"}, default="adam"
        The solver; "sgd" is with momentum.
    batch_size : int or "auto", default="auto"
        Rows of a minibatch; "auto" is min(200, rows). A last batch of one row joins the
        batch before it.
    learning_rate : {"constant", "cosine", "one-cycle"}, default="one-cycle"
        Schedule of the learning rate over `max_iter` epochs; `learning_rate_init` is
        its largest value.
    learning_rate_init : float, default=0.01
        Largest learning rate.
    max_iter : int, default=30
        Epochs; at most, where training can stop early.
    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1).
    beta_1 : float, default=0.9
        Decay of Adam's first moment.
    beta_2 : float, default=0.999
        Decay of Adam's second moment.
    epsilon : float, default=1e-8
        Adam's guard against division by zero.
    batch_norm_eps : float, default=1e-5
        Added to the variance in batch norm.
    early_stopping : bool or "auto", default="auto"
        Stop when the validation loss no longer improves, and keep the best epoch's
        weights. "auto" does so with more than 10,000 rows or when `X_val` is given.
    validation_fraction : float, default=0.1
        Share of the rows set aside for early stopping.
    n_iter_no_change : int, default=10
        Epochs without an improvement of the validation loss by `tol` before training
        stops; without early stopping, of the training loss, if the learning rate is
        constant.
    tol : float, default=1e-4
        The least improvement of the loss that counts.
    n_ensemble : int, default=1
        Networks trained from different seeds in one stack; predictions are their mean.
    warm_start : bool, default=False
        Go on from the weights of the last `fit`, with a new schedule and solver state.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, row order, dropout and the early-stopping rows.
    device : str or torch.device, default="cpu"
        Where to train and predict, such as "cuda".
    dtype : {"float32", "float64"}, default="float32"
        Precision of the computation.
    callbacks : list of skorch callbacks or None, default=None
        Given to the skorch net `net_`. They see a row per epoch in ``net.history``, with
        "train_loss" and, with early stopping, "valid_loss".
    verbose : bool, default=False
        Print the loss after every epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained net: ``net_.history``, ``net_.save_params``, ``net_.module_``.
    n_iter_ : int
        Epochs trained.
    best_iter_ : int
        Epochs after which the kept weights were reached; `n_iter_` without early stopping.
    loss_curve_ : list of float
        Mean training loss of each epoch; with ``l2_mode="loss"`` the penalty at its end
        is included.
    validation_loss_curve_ : list of float or None
        Validation loss after each epoch; None without early stopping.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer; with batch norm of the output layer alone.
    gammas_, betas_ : list of ndarray of shape (n_units,)
        Scales and shifts of batch norm.
    l2_report_ : list of RoleReport
        For each role its number of parameters, L2 strength and decay budget, the sum of
        lr * l2 over the steps: the e-folds by which decay alone would have shrunk it.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if `X` had any.

    Notes
    -----
    With `n_ensemble` > 1 the attributes from `n_iter_` to `l2_report_` are those of the first member.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), BNMLPRegressor(random_state=0))
    >>> bool(cross_val_score(model, X, y).mean() > 0.3)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes=(128, 128),
        activation="relu",
        *,
        batch_norm=True,
        dropout=0.0,
        l2=1.0,
        l2_targets="weights",
        l2_mode="decoupled",
        solver="adam",
        batch_size="auto",
        learning_rate="one-cycle",
        learning_rate_init=0.01,
        max_iter=30,
        momentum=0.9,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_norm_eps=1e-5,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        n_ensemble=1,
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
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose

    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch at `learning_rate_init`, from where the last call ended.

        The first call's targets decide the scale on which all are standardised.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        self : object
            The estimator.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """Predict the targets, the mean over the ensemble's members.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
        """
        prediction = self._outputs(X).mean(axis=0).T * self._target_scale + self._target_mean
        return prediction[:, 0] if self._single_target else prediction

    def _learn_target(self, y, weight, classes):
        del classes
        self._single_target = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._target_mean = np.average(y, axis=0, weights=weight)
        scale = np.sqrt(np.average((y - self._target_mean) ** 2, axis=0, weights=weight))
        constant = scale <= 10 * np.finfo(float).eps * np.abs(self._target_mean)
        self._target_scale = np.where(constant, 0.0, scale)  # 0: the mean is predicted

    def _is_known(self, y):
        return np.ones(len(y), dtype=bool)

    def _encode(self, y):
        scale = np.where(self._target_scale > 0, self._target_scale, 1.0)
        return torch.as_tensor((y.reshape(len(y), -1) - self._target_mean) / scale)

    def _add_class_weight(self, y, weight):
        del y
        return weight

    def _stratified(self):
        return False

    def _loss(self):
        return "squared", len(self._target_mean)
