"""From an estimator and a user's data to a task of the engine's: data are checked here, once."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from sk_bnreg.engine.embedding import QUANTILES, embeddings_in_turn
from sk_bnreg.engine.net import StackedNet
from sk_bnreg.engine.roles import l2_by_role, lacking_roles, network_blocks
from sk_bnreg.engine.rows import Rows, Table, batch_bounds, feature_quantiles, numeric_features
from sk_bnreg.engine.solvers import SOLVERS, Member, learning_rates
from sk_bnreg.engine.tasks import Structure, Task
from sk_bnreg.estimators.checks import (
    check_params,
    check_size,
    check_table,
    check_target,
    check_weight,
    hidden_sizes,
    warn_of_coarse,
)
from sk_bnreg.estimators.targets import ClassTarget, NumberTarget

AUTO_STOPPING = 200  # with more rows than these early_stopping="auto" sets some aside
MOST_EMBEDDED = 256  # features
MOST_PARAMETERS = 2**31
OF_ALL_MEMBERS = {"callbacks", "device", "dtype", "members", "n_ensemble", "warm_start"}  # what they cannot differ in
DTYPES = {"float32": torch.float32, "float64": torch.float64}

Tables = dict[tuple[int, str, str], Table]  # by the user's object, dtype and device


@config_context(array_api_dispatch=False)  # tensors are converted: validate_data would look for numpy's types in torch
def make_tasks(network: Any, *data: Any, tables: Tables | None = None, **options: Any) -> list[Task]:
    """Check a network's parameters and data, and return what trains it: a task, or one for each of its `members`.

    The network keeps what `predict` needs of the data: names of features, classes, the scale of targets.

    Parameters
    ----------
    network : BaseBNMLP
    *data, tables, **options
        As `make_task` takes them.

    Raises
    ------
    ValueError
        If a parameter or the data is not valid.
    """
    if network.members is None:
        return [make_task(network, *data, tables=tables, **options)]
    check_params(network)
    own = set(network.get_params(deep=False)) - OF_ALL_MEMBERS
    if not network.members or not all(isinstance(params, dict) and own >= set(params) for params in network.members):
        raise ValueError(
            f"members must be one or more dicts of parameters other than {sorted(OF_ALL_MEMBERS)}, got "
            f"{network.members!r}."
        )
    if network.warm_start or network.callbacks:
        raise ValueError("warm_start and callbacks are for networks that are alike; set members to None.")
    network.__dict__.pop("nets_", None)  # if this training fails, nothing is fitted
    seeds = check_random_state(network.random_state).randint(np.iinfo(np.int32).max, size=len(network.members))
    alike = {"members": None, "n_ensemble": 1}
    parts = [
        clone(network).set_params(**alike | {"random_state": int(seed)} | params)
        for seed, params in zip(seeds, network.members, strict=True)
    ]
    tables = {} if tables is None else tables
    tasks = [make_task(part, *data, tables=tables, **options) for part in parts]
    # of the same data all learn the same: names of features, classes, the scale of targets
    network.__dict__.update({name: value for name, value in vars(parts[0]).items() if name.endswith("_")})
    return tasks


def make_task(
    network: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    validation: tuple[Any, Any, Any] = (None, None, None),
    *,
    rows: NDArray[np.int64] | None = None,
    monitor_rows: NDArray[np.int64] | None = None,
    monitor: tuple[Any, Any] | None = None,
    tables: Tables | None = None,
    classes: Any = None,
    epochs: int | None = None,
) -> Task:
    """Check a network's parameters and data, and return what trains it.

    The network keeps what `predict` needs of the data: names of features, classes, the scale of targets.

    Parameters
    ----------
    network : BaseBNMLP
    X, y, sample_weight
        As `fit` takes them.
    validation : (X_val, y_val, sample_weight_val)
    rows, monitor_rows : ndarray of int or None
        Rows of `X` to train on, early-stopping fraction included, and rows of it to report on; None is all, and none.
    monitor : (X, y) or None
        Other rows to report on.
    tables : dict or None
        Tables that earlier tasks checked, which are not checked or copied again; this task's are added.
    classes : array-like or None
        All classes that will ever come (`partial_fit`).
    epochs : int or None
        Marks a `partial_fit`, of so many epochs.

    Raises
    ------
    ValueError
        If a parameter or the data is not valid.
    """
    check_params(network)
    resumed = network.__dict__.get("nets_", [None])[0] if network.warm_start or epochs else None
    checked = _Checked(network, {} if tables is None else tables)
    table, X, y = checked.table_and_target(X, y, reset=resumed is None)
    weight = check_weight(sample_weight, X)
    index = np.arange(table.shape[0]) if rows is None else rows
    if weight is not None:
        index = index[weight[index] > 0]
        weight = weight[index]
        if not len(index):
            raise ValueError("sample_weight must be above 0 for at least one of the rows to train on, got 0 for all.")
    if resumed is None:
        network.__dict__.pop("nets_", None)  # if this training fails, nothing is fitted
        _learn_target(network, y[index], weight, classes, final=epochs is None)
    else:
        network.target_.go_on()
    checked.learn_class_weights(y[index], weight)

    # one seed per network first: what rows are set aside must not change the weights that a network starts from
    rng = check_random_state(network.random_state)
    seeds = rng.randint(np.iinfo(np.int32).max, size=int(network.n_ensemble))
    all_rows = checked.rows(table, index, y[index], weight)
    valid_rows = checked.validation_rows(*validation)
    stopping = not epochs and _stops_early(network, len(index), valid_rows is not None)
    train, valid = [all_rows] * len(seeds), [valid_rows] * len(seeds) if stopping and valid_rows else []
    if stopping and valid_rows is None:
        # all are drawn before any is gathered, since drawing takes much memory for a moment
        drawn = [_draw_aside(network, all_rows, rng) for _ in seeds]
        train, valid = map(list, zip(*map(all_rows.divide, drawn), strict=True))
    embedded = _embedded(network, table, index) if resumed is None else network.structure_.embedded
    structure = _structure(network, table, len(train[0].index), embedded)
    _check_parameters(structure, int(network.n_ensemble))
    starts = _embedding_starts(network, table, index, weight, embedded)
    # batch size and batches per epoch, the last two, may change with the rows
    piecewise = [[isinstance(start, np.ndarray)] for start in starts]
    if resumed is not None and (structure[:-2], piecewise) != (
        network.structure_[:-2], resumed.module_.piecewise.tolist()
    ):  # fmt: skip
        raise ValueError(
            "warm_start and partial_fit go on with the network as it is: of its parameters only dropout, l2, "
            "l2_targets, l2_mode, learning_rate, learning_rate_init and those of the stopping rule may change."
        )
    return Task(
        structure=structure,
        members=_members(network, seeds, stopping, structure.n_batches, starts),
        train=train,
        valid=valid,
        monitor=checked.monitor(table, y, monitor_rows, monitor),
        net=resumed,
        n_before=0 if resumed is None else len(resumed.records_[0].train_loss),
        epochs=epochs,
        callbacks=list(network.callbacks or ()),
        verbose=bool(network.verbose),
    )


def adopt(network: Any, nets: list[StackedNet], tasks: list[Task]) -> None:
    """Let a network have the nets that its tasks' training gave."""
    record, task = nets[0].records_[0], tasks[0]
    network.nets_ = nets
    network.n_iter_ = len(record.train_loss) - task.n_before
    network.t_ = (network.t_ if task.n_before else 0) + network.n_iter_ * len(task.train[0].index)
    network.best_iter_ = record.best_iter
    network.loss_curve_ = record.train_loss
    network.validation_loss_curve_ = record.valid_loss or None
    network.structure_ = task.structure


def n_networks(network: Any) -> int:
    """Return how many networks an estimator trains."""
    return int(network.n_ensemble) if network.members is None else len(network.members)


def l2_of_steps(network: Any, budget: float, n_batches: int) -> float:
    """Return the strength whose sum of lr * l2 over all planned steps, `n_batches` an epoch, is this budget."""
    solver = SOLVERS[network.solver]
    if not solver.has_budget(network.l2_mode):
        others = [name for name, other in SOLVERS.items() if other.has_budget(network.l2_mode)]
        raise ValueError(
            f"l2_mode must be 'decoupled' or solver {' or '.join(map(repr, others))} for a decay budget to exist, "
            f"got {network.l2_mode!r} with {network.solver!r}."
        )
    n_steps = network.max_iter * n_batches
    rate_sum = learning_rates(network.learning_rate, network.learning_rate_init, n_steps).sum()
    return float(budget / (rate_sum * solver.decay_factor(network.l2_mode, vars(network))))


def as_table(X: Any, device: Any) -> Table:
    """Return a checked array as a tensor on the device, without copying where it can; CSR as it is."""
    if sparse.issparse(X):
        return X  # type: ignore[return-value]
    # one row or column is in order whatever its strides, but torch takes none below 0
    return torch.from_numpy(X if X.flags.writeable and min(X.strides) >= 0 else X.copy()).to(device)


def is_single(X: Any) -> bool:
    """Tell whether all of a user's table is in single precision."""
    dtypes = getattr(X, "dtypes", getattr(X, "dtype", None))
    return all(dtype == np.float32 for dtype in np.asarray(dtypes, dtype=object).flat)


def batch_size_for(network: Any, n_rows: int) -> int:
    """Return how many rows a network's batches have when it trains on so many."""
    if network.batch_size != "auto":
        return min(network.batch_size, n_rows)
    if n_rows <= 64:
        return n_rows
    return next((size for size in (200, 128, 64) if n_rows >= 12 * size), 32)


def n_rows_aside(network: Any, n_rows: int) -> int:
    """Return how many of the rows that `fit` is given a network sets aside for early stopping."""
    return int(np.ceil(network.validation_fraction * n_rows)) if _stops_early(network, n_rows, False) else 0


def _learn_target(network: Any, y: NDArray[Any], weight: Any, classes: Any, final: bool) -> None:
    if is_classifier(network):
        network.target_ = ClassTarget(y, classes)
        network.classes_ = network.target_.classes
    else:
        network.target_ = NumberTarget(y, weight, final)


def _stops_early(network: Any, n_rows: int, has_validation: bool) -> bool:
    if has_validation and not network.early_stopping:
        raise ValueError("early_stopping must be True or 'auto' when X_val and y_val are given, got False.")
    return network.early_stopping is True or (
        network.early_stopping == "auto" and (n_rows > AUTO_STOPPING or has_validation)
    )


class _Checked:
    """Turns a network's data into rows of tables; a table is checked once for all networks that share it.

    Parameters
    ----------
    network : BaseBNMLP
    tables : dict
        Tables that were checked before, by the user's object, dtype and device; new ones are added.
    """

    def __init__(self, network: Any, tables: Tables):
        self.network, self.tables = network, tables
        self.weigh = lambda y, weight: weight

    def table_and_target(self, X: Any, y: Any, reset: bool) -> tuple[Table, Any, NDArray[Any]]:
        """Check features and target, and learn the features' number and names."""
        key = self._key(X)
        if key in self.tables:
            validate_data(self.network, X, reset=reset, skip_check_array=True)
        else:
            checked = check_table(self.network, X, reset=reset, y=y)
            check_size(checked)
            warn_of_coarse(checked, X)
            self.tables[key] = as_table(checked, self.network.device)
            X = checked
        return self.tables[key], X, check_target(self.network, y, X)

    def learn_class_weights(self, y: NDArray[Any], weight: Any) -> None:
        """Learn the weights of classes from the rows to train on."""
        class_weight = self.network.get_params(deep=False).get("class_weight")
        if class_weight is not None:
            self.weigh = self.network.target_.weigher(class_weight, y, weight)

    def rows(self, table: Table, index: NDArray[np.int64], y: NDArray[Any], weight: Any) -> Rows:
        """Collect the rows of positive weight; equal weights are as good as none, and faster."""
        weight = self.weigh(y, weight)
        if weight is not None and not (np.isfinite(weight).all() and weight.min() >= 0 and weight.max() > 0):
            raise ValueError(
                f"class_weight must be finite numbers >= 0, and not 0 for all rows, got {self.network.class_weight!r}."
            )
        return self._rows(table, index, y, weight)

    def validation_rows(self, X_val: Any, y_val: Any, sample_weight_val: Any) -> Rows | None:
        """Collect the user's own rows for early stopping, if there are any."""
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val must be given together, got only one of them.")
        X_val = check_table(self.network, X_val, reset=False)
        y_val = check_target(self.network, y_val, X_val)
        weight = check_weight(sample_weight_val, X_val, "sample_weight_val")
        return self.rows(as_table(X_val, self.network.device), np.arange(X_val.shape[0]), y_val, weight)

    def monitor(self, table: Table, y: NDArray[Any], index: Any, other: tuple[Any, Any] | None) -> Rows | None:
        """Collect rows to report on, but for those of a class that training did not see; nothing weighs them.

        None if there are no others.
        """
        if other is not None:
            X, y = other
            key = self._key(X)
            if key not in self.tables:
                X = check_table(self.network, X, reset=False)
                self.tables[key] = as_table(X, self.network.device)
            table, y = self.tables[key], check_target(self.network, y, X)
            index = np.arange(table.shape[0])
        if index is None:
            return None
        index = index[self.network.target_.is_known(y[index])]
        return self._rows(table, index, y[index], None) if len(index) else None

    def _key(self, X: Any) -> tuple[int, str, str]:
        return id(X), self.network.dtype, str(self.network.device)

    def _rows(self, table: Table, index: NDArray[np.int64], y: NDArray[Any], weight: Any) -> Rows:
        dtype, device = self.network.dtype, self.network.device
        if weight is not None:
            weight = (weight / weight.max()).astype(dtype)
            kept = weight >= np.finfo(dtype).tiny
            index, y, weight = index[kept], y[kept], weight[kept]
            weight = None if np.ptp(weight) == 0 else torch.as_tensor(weight).to(device)
        target = self.network.target_.encode(y)
        if target.is_floating_point():
            target = target.to(DTYPES[dtype])
        return Rows(table, torch.as_tensor(index, dtype=torch.int64).to(device), target.to(device), weight)


def _draw_aside(network: Any, rows: Rows, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Draw the places of the early-stopping fraction, of every class its share where it has two rows."""
    n_rows = len(rows.target)
    n_valid = int(np.ceil(network.validation_fraction * n_rows))
    if n_rows - n_valid < 1 or n_valid < 2:
        raise ValueError(
            f"The validation set is too small: early_stopping would set {n_valid} of {n_rows} rows aside, which must "
            "be at least 2 and leave 1. Change validation_fraction, or set early_stopping to False or 'auto'."
        )
    codes = rows.target.cpu().numpy()
    codes = codes[:, 0] if codes.ndim == 2 and codes.shape[1] == 1 else codes
    stratified = network.target_.stratified
    values, counts = np.unique(codes, return_counts=True, axis=0) if stratified else (np.empty(0), np.zeros(1))
    stratify = codes if min(counts) >= 2 and len(values) <= min(n_valid, n_rows - n_valid) else None
    _, aside = train_test_split(
        np.arange(n_rows), test_size=network.validation_fraction, random_state=rng, stratify=stratify
    )
    return aside


def _embedded(network: Any, table: Table, index: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the features to embed: none of many, which are pixels or words, not what embeddings are for."""
    if network.numeric_embedding is None or not hidden_sizes(network):
        return ()
    features = numeric_features(table, index)
    return tuple(features) if len(features) <= MOST_EMBEDDED else ()


def _structure(network: Any, table: Table, n_rows: int, embedded: tuple[int, ...]) -> Structure:
    size = batch_size_for(network, n_rows)
    n_batches = len(batch_bounds(n_rows, size)) - 1
    return Structure(
        n_features=table.shape[1],
        sparse=sparse.issparse(table),
        embedded=embedded,
        hidden_layer_sizes=hidden_sizes(network),
        n_outputs=network.target_.n_outputs,
        activation=network.activation,
        batch_norm=network.batch_norm,
        batch_norm_eps=network.batch_norm_eps,
        loss=network.target_.loss,
        solver=network.solver,
        constants=tuple((name, getattr(network, name)) for name in SOLVERS[network.solver].constants),
        dtype=DTYPES[network.dtype],
        device="cpu" if torch.device(network.device).type == "cpu" else str(network.device),  # "cpu:0" too
        batch_size=-1 if n_batches == 1 else size,
        n_batches=n_batches,
    )


def _check_parameters(s: Structure, n_members: int) -> None:
    """Refuse networks that no memory holds, before anything is allocated for them."""
    n_parameters = (
        n_members * network_blocks(s.n_features, s.hidden_layer_sizes, s.n_outputs, n_embedded=len(s.embedded))[-1].stop
    )
    if n_parameters > MOST_PARAMETERS:
        raise ValueError(
            f"hidden_layer_sizes={s.hidden_layer_sizes} and n_ensemble={n_members} make {n_parameters:,} parameters of "
            f"{s.n_features} features, over {MOST_PARAMETERS:,}: set one of them lower."
        )


def _embedding_starts(
    network: Any, table: Table, index: NDArray[np.int64], weight: Any, embedded: tuple[int, ...]
) -> list[float | NDArray[np.float64]]:
    """Return what each network's embeddings start from, as a `Member` has it."""
    asked = network.numeric_embedding, network.frequency_init_scale
    own = [embeddings_in_turn(*asked, number) for number in range(network.n_ensemble)]
    lines = [params["numeric_embedding"] == "piecewise-linear" for params in own]
    quantiles = np.empty((QUANTILES, 0))
    if any(lines) and embedded:
        quantiles = feature_quantiles(table, index, weight, embedded, QUANTILES)
    scales = (float(params["frequency_init_scale"]) for params in own)
    return [quantiles if of_lines else scale for of_lines, scale in zip(lines, scales, strict=True)]


def _members(
    network: Any, seeds: Sequence[int], stopping: bool, n_batches: int, starts: list[float | NDArray[np.float64]]
) -> list[Member]:
    strength = network.l2 if network.l2_budget is None else l2_of_steps(network, network.l2_budget, n_batches)
    l2 = l2_by_role(strength, network.l2_targets)
    empty = lacking_roles(n_hidden=len(hidden_sizes(network)), batch_norm=network.batch_norm)
    if any(l2.values()) and not any(strength for role, strength in l2.items() if role not in empty):
        warnings.warn(
            f"L2 has nothing to penalise: l2={strength!r}, l2_targets={network.l2_targets!r} name only roles that "
            f"this network lacks ({', '.join(sorted(empty))}).",
            stacklevel=5,
        )
    return [
        Member(
            seed=int(seed),
            learning_rate=network.learning_rate,
            learning_rate_init=network.learning_rate_init,
            l2=l2,
            l2_mode=network.l2_mode,
            dropout=network.dropout,
            max_iter=int(network.max_iter),  # True is an integer too
            early_stopping=stopping,
            n_iter_no_change=network.n_iter_no_change,
            tol=network.tol,
            embedding=start,
        )
        for seed, start in zip(seeds, starts, strict=True)
    ]
