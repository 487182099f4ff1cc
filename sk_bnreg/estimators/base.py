"""What BNMLPClassifier and BNMLPRegressor share: checks, the way into the engine, fitted attributes."""

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from skorch.callbacks import Callback

from sk_bnreg.engine.functions import ACTIVATIONS
from sk_bnreg.engine.roles import ROLES, l2_by_role, lacking_roles
from sk_bnreg.engine.rows import Rows, batch_bounds, numeric_features
from sk_bnreg.engine.solvers import L2_MODES, LEARNING_RATES, SOLVERS, Member, learning_rates
from sk_bnreg.engine.tasks import DIVERGED, Structure, Task, train_tasks

# with more rows than these early_stopping="auto" sets some aside
AUTO_STOPPING = 200
MOST_EMBEDDED = 256

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class RoleReport(NamedTuple):
    """A row of `l2_report_`: the L2 of one role."""

    role: str
    n_parameters: int
    strength: float
    budget: float


class Fit(NamedTuple):
    """The arguments of a network's `fit`."""

    X: Any
    y: Any
    sample_weight: Any
    validation: tuple[Any, Any, Any]


_NOTED: ContextVar[list[Fit] | None] = ContextVar("noted", default=None)


@contextmanager
def noted_fits():
    """Inside, a network's `fit` adds its arguments to the list and trains nothing.

    So a search lets a pipeline fit and route as it does, and trains the networks at its
    ends together.
    """
    fits = []
    token = _NOTED.set(fits)
    try:
        yield fits
    finally:
        _NOTED.reset(token)


class BaseBNMLP(CallbackSupportMixin, MultiOutputMixin, BaseEstimator):
    """The estimators without their targets: subclasses encode y and decode outputs."""

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
        "numeric_embedding": [StrOptions({"periodic"}), None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "dtype": [StrOptions(set(DTYPES))],
        "callbacks": [None, list, tuple],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes=(128, 128),
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
        max_iter=30,
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
        numeric_embedding="periodic",
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
        self.numeric_embedding = numeric_embedding
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
        validation = (X_val, y_val, sample_weight_val)
        noted = _NOTED.get()
        if noted is not None:
            noted.append(Fit(X, y, sample_weight, validation))
            return self
        metadata = {"sample_weight": sample_weight}
        context = self._init_callback_context(max_subtasks=self.max_iter)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=metadata)
        task = self._make_task(X, y, sample_weight, validation=validation)
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
        if self.early_stopping is True or (self.early_stopping == "auto" and n_samples > AUTO_STOPPING):
            n_samples -= int(np.ceil(self.validation_fraction * n_samples))
        return self._l2_for_budget(budget, len(batch_bounds(n_samples, self._batch_size(n_samples))) - 1)

    def _l2_for_budget(self, budget, n_batches):
        solver = SOLVERS[self.solver]
        if not solver.has_budget(self.l2_mode):
            others = [name for name, other in SOLVERS.items() if other.has_budget(self.l2_mode)]
            raise ValueError(
                f"l2_mode must be 'decoupled' or solver {' or '.join(map(repr, others))} for a decay budget to exist, "
                f"got {self.l2_mode!r} with {self.solver!r}."
            )
        n_steps = self.max_iter * n_batches
        rate_sum = learning_rates(self.learning_rate, self.learning_rate_init, n_steps).sum()
        return float(budget / (rate_sum * solver.decay_factor(self.l2_mode, vars(self))))

    def _batch_size(self, n_rows):
        if self.batch_size != "auto":
            return min(self.batch_size, n_rows)
        if n_rows <= 64:
            return n_rows
        return next((size for size in (200, 128, 64) if n_rows >= 12 * size), 32)

    def _partial_fit(self, X, y, sample_weight, classes=None):
        if self.early_stopping is True:
            raise ValueError("partial_fit does not support early_stopping=True; use 'auto' or False.")
        return self._train(self._make_task(X, y, sample_weight, classes=classes, epochs=1))

    def _train(self, task):
        if train_tasks([task]):
            self.__dict__.pop("net_", None)
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
            _check_size(X)
            table = _as_table(X, self.device)
        else:
            validate_data(self, X, reset=resumed is None, skip_check_array=True)
        y = self._check_target(X, y)
        index = np.arange(table.shape[0]) if rows is None else rows
        weight = _check_weight(sample_weight, X)
        if weight is not None:
            index = index[weight[index] > 0]
            weight = weight[index]
        if resumed is None:
            self.__dict__.pop("net_", None)  # if this training fails, nothing is fitted
            self._learn_target(y[index], weight, classes, final=epochs is None)

        rng = check_random_state(self.random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=self.n_ensemble)
        self._learn_class_weight(y[index], weight)
        all_rows = self._rows(table, index, y[index], self._add_class_weight(y[index], weight))
        valid_rows = self._validation_rows(*validation)
        stopping = self.early_stopping is True or (
            self.early_stopping == "auto" and (len(index) > AUTO_STOPPING or valid_rows is not None)
        )
        if valid_rows is not None and not stopping:
            raise ValueError("early_stopping must be True or 'auto' when X_val and y_val are given, got False.")
        stopping = stopping and not epochs
        train, valid = [all_rows] * len(seeds), [valid_rows] * len(seeds) if stopping else []
        if stopping and valid_rows is None:
            # all are drawn before any is gathered, since drawing takes much memory for a moment
            drawn = [self._draw_aside(all_rows, rng) for _ in seeds]
            train, valid = zip(*map(all_rows.divide, drawn), strict=True)
        monitor = None if monitor_rows is None else self._known_rows(table, monitor_rows, y)

        embedded = self._embedded(table, index) if resumed is None else self._trained_structure.embedded
        structure = self._structure(table, len(train[0].index), embedded)
        if resumed is not None and (structure[:-2], len(seeds)) != (self._trained_structure[:-2], len(resumed.members)):
            raise ValueError(
                "warm_start and partial_fit go on with the network as it is: of its parameters only dropout, l2, "
                "l2_targets, l2_mode, learning_rate, learning_rate_init and those of the stopping rule may change."
            )
        return Task(
            estimator=self,
            structure=structure,
            members=self._members(seeds, stopping, structure.n_batches),
            train=list(train),
            valid=list(valid),
            monitor=monitor,
            net=resumed,
            epochs=epochs,
            callbacks=list(self.callbacks or ()),
            verbose=bool(self.verbose),
        )

    def _check_params(self):
        self._validate_params()
        if self.solver == "lbfgs":
            raise ValueError("solver must be 'adam' or 'sgd', got 'lbfgs', which has no counterpart for minibatches.")
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_size must be at least 2 with batch_norm=True, or 'auto', got 1.")
        if not all(isinstance(size, Integral) and size > 0 for size in self._hidden_sizes()):
            raise ValueError(f"hidden_layer_sizes must be integers > 0, got {self.hidden_layer_sizes!r}.")

    def _hidden_sizes(self):
        sizes = self.hidden_layer_sizes
        if isinstance(sizes, str):
            return tuple(int(size) if size.isdecimal() else 0 for size in sizes.split("-"))
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
        """Collect a member's rows of positive weight; equal weights are as good as none, and faster."""
        if weight is not None:
            weight = (weight / weight.max()).astype(self.dtype)
            kept = weight >= np.finfo(self.dtype).tiny
            index, y, weight = index[kept], y[kept], weight[kept]
            weight = None if np.ptp(weight) == 0 else torch.as_tensor(weight)
        target = self._encode(y)
        if target.is_floating_point():
            target = target.to(DTYPES[self.dtype])
        parts = (torch.as_tensor(index, dtype=torch.int64), target, weight)
        return Rows(table, *(None if part is None else part.to(self.device) for part in parts))

    def _known_rows(self, table, index, y):
        """Collect rows to report on, but for those of a class that training did not see."""
        index = index[self._is_known(y[index])]
        return self._rows(table, index, y[index], None)

    def _monitor_rows(self, X, y, table):
        """Collect rows of another table to report on; `table` is `X` as an earlier call left it."""
        if table is None:
            table = _as_table(validate_data(self, X, reset=False, **self._array_rules()), self.device)
        return self._known_rows(table, np.arange(table.shape[0]), self._check_target(X, y))

    def _validation_rows(self, X_val, y_val, sample_weight_val):
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val must be given together, got only one of them.")
        X_val = validate_data(self, X_val, reset=False, **self._array_rules())
        y_val = self._check_target(X_val, y_val)
        weight = self._add_class_weight(y_val, _check_weight(sample_weight_val, X_val))
        return self._rows(_as_table(X_val, self.device), np.arange(X_val.shape[0]), y_val, weight)

    def _draw_aside(self, rows, rng):
        """Draw the places of the early-stopping fraction."""
        if len(rows.target) < 2:
            raise ValueError(
                "early_stopping needs at least 2 rows of positive weight, got 1; set it to False or 'auto'."
            )
        codes = rows.target.cpu().numpy()
        codes = codes[:, 0] if codes.ndim == 2 and codes.shape[1] == 1 else codes
        values, counts = np.unique(codes, return_counts=True, axis=0) if self._stratified() else ((), (0,))
        n_valid = int(np.ceil(self.validation_fraction * len(codes)))
        stratify = codes if min(counts) >= 2 and len(values) <= min(n_valid, len(codes) - n_valid) else None
        _, aside = train_test_split(
            np.arange(len(codes)), test_size=self.validation_fraction, random_state=rng, stratify=stratify
        )
        return aside

    def _embedded(self, table, index):
        """Return the features to embed: none of many, which are pixels or words, not what cosines are for."""
        if self.numeric_embedding is None or not self._hidden_sizes():
            return ()
        features = numeric_features(table, index)
        return tuple(features) if len(features) <= MOST_EMBEDDED else ()

    def _structure(self, table, n_rows, embedded):
        size = self._batch_size(n_rows)
        n_batches = len(batch_bounds(n_rows, size)) - 1
        loss, n_outputs = self._loss()
        return Structure(
            n_features=table.shape[1],
            sparse=sparse.issparse(table),
            embedded=embedded,
            hidden_layer_sizes=self._hidden_sizes(),
            n_outputs=n_outputs,
            activation=self.activation,
            batch_norm=self.batch_norm,
            batch_norm_eps=self.batch_norm_eps,
            loss=loss,
            solver=self.solver,
            constants=tuple((name, getattr(self, name)) for name in SOLVERS[self.solver].constants),
            dtype=DTYPES[self.dtype],
            device=str(self.device),
            batch_size=-1 if n_batches == 1 else size,
            n_batches=n_batches,
        )

    def _members(self, seeds, stopping, n_batches):
        strength = self.l2 if self.l2_budget is None else self._l2_for_budget(self.l2_budget, n_batches)
        l2 = l2_by_role(strength, self.l2_targets)
        empty = lacking_roles(hidden=bool(self._hidden_sizes()), batch_norm=self.batch_norm)
        if any(l2.values()) and not any(strength for role, strength in l2.items() if role not in empty):
            warnings.warn(
                f"L2 has nothing to penalise: l2={strength!r}, l2_targets={self.l2_targets!r} name only roles that "
                f"this network lacks ({', '.join(sorted(empty))}).",
                stacklevel=5,
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
        return hasattr(self, "net_")

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


def _check_size(X):
    """Refuse numbers whose squares overflow: no sum of products of them can be trusted."""
    values, largest = X.data if sparse.issparse(X) else X, np.sqrt(np.finfo(X.dtype).max)
    size = max(abs(values.min()), abs(values.max())) if values.size else 0.0
    if size > largest:
        raise ValueError(f"X must be at most {largest:.1e} in size for dtype={X.dtype}, got {size:.1e}: scale it.")


def _check_weight(weight, X):
    return None if weight is None else _check_sample_weight(weight, X, ensure_non_negative=True)


def _as_table(X, device):
    """Return a checked array as a tensor on the device without copying where it can, CSR as it is."""
    if sparse.issparse(X):
        return X
    return torch.from_numpy(X if X.flags.writeable else X.copy()).to(device)
