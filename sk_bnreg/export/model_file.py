"""save_model, load_model: a fitted estimator as one file of arrays and JSON, which can run no code.

The file is one of safetensors: arrays, and in its header JSON that says what they are. A network is written and built
here, from facts that are checked; the steps of a pipeline before it are written and built by skops, of classes of a
fixed list alone. A pickle is never opened.
"""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sk_bnreg.engine.functions import ACTIVATIONS
from sk_bnreg.engine.net import Record, StackedNet
from sk_bnreg.engine.normalisation import NORMALISATIONS
from sk_bnreg.engine.roles import network_blocks
from sk_bnreg.engine.solvers import SOLVERS, Member
from sk_bnreg.engine.tasks import Structure, make_net
from sk_bnreg.estimators.checks import check_params
from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor
from sk_bnreg.estimators.pipelines import emptied, filled, network_in
from sk_bnreg.estimators.preparation import DTYPES
from sk_bnreg.estimators.targets import ClassTarget, NumberTarget

FORMAT = 1
KINDS = {kind.__name__: kind for kind in (BNMLPClassifier, BNMLPRegressor)}
MOST_PACKED = 100  # times that steps may be larger than in the file; 50 are seen
# Beside scikit-learn's estimators, which skops knows: what skrub's steps for mixed tables are made of.
STEPS = (
    "numpy.dtype",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "skrub._apply_to_each_col.ApplyToEachCol",
    "skrub._check_input.CheckInputDataFrame",
    "skrub._clean_categories.CleanCategories",
    "skrub._clean_null_strings.CleanNullStrings",
    "skrub._dataframe._common.is_any_date",
    "skrub._dataframe._common.is_categorical",
    "skrub._dataframe._common.is_numeric",
    "skrub._datetime_encoder.DatetimeEncoder",
    "skrub._datetime_encoder._SplineEncoder",
    "skrub._drop_uninformative.DropUninformative",
    "skrub._duration_to_float.DurationToFloat",
    "skrub._squashing_scaler.SquashingScaler",
    "skrub._squashing_scaler._MinMaxScaler",
    "skrub._string_encoder.StringEncoder",
    "skrub._table_vectorizer.PassThrough",
    "skrub._table_vectorizer.ShortReprDict",
    "skrub._table_vectorizer.TableVectorizer",
    "skrub._table_vectorizer._created_by_predicate",
    "skrub._to_datetime.ToDatetime",
    "skrub._to_float.ToFloat",
    "skrub._to_str.ToStr",
    "skrub.selectors._base.All",
    "skrub.selectors._base.And",
    "skrub.selectors._base.Cols",
    "skrub.selectors._base.Filter",
    "skrub.selectors._base.Sub",
    "skrub.selectors._selectors._cardinality_below",
)
FITTED = ("n_features_in_", "feature_names_in_", "classes_", "n_iter_", "t_", "best_iter_", "loss_curve_",
          "validation_loss_curve_")  # fmt: skip
STATE = ("theta", "running_mean", "running_var", "piecewise")
Arrays = dict[str, NDArray[Any]]


def save_model(estimator: Any, path: str | Path) -> None:
    """Write a fitted network, or a pipeline that ends in one, as a file that can run no code.

    `load_model` opens it, and its predictions are the same to the bit. What is not kept: callbacks, requests of
    metadata, a `random_state` that is no integer, and the solver's moments, so that `partial_fit` begins with a new
    solver, as `warm_start` does.

    Parameters
    ----------
    estimator : estimator
        Fitted: a `BNMLPClassifier` or `BNMLPRegressor`, or a `Pipeline` or `TransformedTargetRegressor` that ends in
        one, whose other steps are scikit-learn's or those of `skrub.tabular_pipeline`.
    path : path
        The file, replaced if it is there; ``.safetensors`` is its usual ending.

    Raises
    ------
    ValueError
        If the estimator, a step or a parameter cannot be kept so.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, load_model, save_model
    >>> X, y = load_iris(return_X_y=True)
    >>> net = BNMLPClassifier(random_state=0).fit(X, y)
    >>> path = Path(mkdtemp()) / "iris.safetensors"
    >>> save_model(net, path)
    >>> bool((load_model(path).predict_proba(X) == net.predict_proba(X)).all())
    True
    """
    from safetensors.numpy import save

    path = _checked_path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"path must be that of a file in a folder that is there, got {str(path)!r}.")
    steps = emptied(estimator)
    check_is_fitted(estimator)
    arrays: Arrays = {}
    about = {"format": FORMAT, "network": _write_network(network_in(estimator)[0], arrays)}
    if steps is not None:
        arrays["steps"] = _write_steps(steps)
    text = json.dumps(about)
    _estimator_of(json.loads(text), arrays)  # what could not be read is told now, when there still is the estimator
    content = save(arrays, metadata={"sk_bnreg": text, "sha256": _digest(text, arrays)})
    part = Path(f"{path}.part")  # a file that is half written must not take the place of another
    part.write_bytes(content)
    os.replace(part, path)


def load_model(path: str | Path) -> Any:
    """Read what `save_model` wrote, on the CPU where there is no other device.

    Nothing is imported that the file names outside a fixed list, and nothing in it is run. A file that is damaged, of
    another kind, or of a newer version is refused.

    Parameters
    ----------
    path : path

    Returns
    -------
    estimator

    Raises
    ------
    ValueError
        If it is no file, or no sound one.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from sk_bnreg import load_model
    >>> path = Path(mkdtemp()) / "churn.safetensors"
    >>> load_model(path)
    Traceback (most recent call last):
    ...
    ValueError: There is no file ...churn.safetensors'.
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, save_model
    >>> save_model(BNMLPClassifier((8,), max_iter=2, n_ensemble=1).fit(*load_iris(return_X_y=True)), path)
    >>> load_model(path).classes_
    array([0, 1, 2])
    """
    from safetensors import safe_open

    path = _checked_path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["sk_bnreg"]
        if metadata["sha256"] != _digest(text, arrays):
            raise ValueError("its content has changed since it was written")
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise ValueError(f"it is of format {about['format']}, of another version of sk_bnreg than this")
        return _estimator_of(about, arrays)
    except Exception as error:  # whatever a damaged file does to whoever reads it
        said = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else error
        raise ValueError(f"{str(path)!r} is no model file of save_model, or a damaged one: {said}.") from error


def _checked_path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise TypeError(f"path must be that of a file, as text or a Path, got {path!r}.")
    return Path(path)


def _estimator_of(about: dict[str, Any], arrays: Arrays) -> Any:
    network = _read_network(about["network"], arrays)
    return filled(_read_steps(arrays["steps"]), network) if "steps" in arrays else network


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_steps(steps: Any) -> NDArray[np.uint8]:
    """Return an estimator without its network as skops writes it."""
    from skops.io import dumps, get_untrusted_types

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "metadata on a dtype")  # which pandas 2 leaves, and nothing reads
            content = dumps(steps, compression=zipfile.ZIP_DEFLATED)
        others = sorted(set(get_untrusted_types(data=content)) - set(STEPS))
    except Exception as error:  # whatever objects do that cannot be written
        raise ValueError(f"The steps before the network cannot be in a model file: {error}") from error
    if others:
        raise ValueError(
            f"The steps before the network cannot be in a model file, which is to run no code: they have {others}. "
            "joblib.dump keeps any."
        )
    return np.frombuffer(content, np.uint8)


def _read_steps(content: NDArray[np.uint8]) -> Any:
    """Build what `_write_steps` wrote, of classes of a fixed list."""
    from skops.io import loads

    packed = content.tobytes()
    with zipfile.ZipFile(BytesIO(packed)) as archive:
        if sum(part.file_size for part in archive.infolist()) > MOST_PACKED * len(packed):
            raise ValueError("its steps are packed too tightly")
    return loads(packed, trusted=list(STEPS))


def _write_network(network: Any, arrays: Arrays) -> dict[str, Any]:
    """Return a fitted network as JSON; its arrays are added to `arrays`."""
    _check(
        type(network) in KINDS.values(), f"A {type(network).__name__} cannot be in a model file: its code is its own."
    )
    params = network.get_params(deep=False) | {"callbacks": None}
    if not isinstance(params["random_state"], int | np.integer):
        params["random_state"] = None
    target, structure = network.target_, network.structure_
    facts = {
        "params": params | {"device": str(params["device"])},
        "fitted": {name: getattr(network, name) for name in FITTED if hasattr(network, name)},
        "target": {
            name: value for name, value in vars(target).items() if name not in ("loss", "n_outputs", "stratified")
        },
        "sparse": structure.sparse,
        "batches": (structure.batch_size, structure.n_batches),
        "nets": [_facts_of(net) for net in network.nets_],
    }
    return {"class": type(network).__name__, "facts": _encoded(facts, "network", arrays)}


def _facts_of(net: StackedNet) -> dict[str, Any]:
    """Return what a net is built from."""
    module, params = net.module_, net.get_params(deep=False)
    solver = next(name for name, kind in SOLVERS.items() if kind is params["optimizer"])
    state = module.state()
    return {
        "embedded": tuple(params["module__embedded"]),
        "hidden_layer_sizes": tuple(params["module__hidden_layer_sizes"]),
        "activation": module.activation,
        "batch_norm": params["module__batch_norm"],
        "batch_norm_eps": params["module__batch_norm_eps"],
        "solver": solver,
        "constants": tuple((name, params[f"optimizer__{name}"]) for name in SOLVERS[solver].constants),
        "batch_size": params["batch_size"],
        "state": {name: state[name] for name in STATE},
        "members": [vars(member) for member in net.members],
        "records": [vars(record) for record in net.records_],
        "seconds": list(net.history[:, "dur"]),
    }


def _read_network(about: dict[str, Any], arrays: Arrays) -> Any:
    """Build what `_write_network` wrote."""
    network = KINDS[about["class"]]()
    facts = _decoded(about["facts"], arrays)
    if set(facts["params"]) != set(network.get_params(deep=False)):
        raise ValueError("its parameters are not those of this version of sk_bnreg")
    network.set_params(**facts["params"])
    check_params(network)
    if not set(facts["fitted"]) <= set(FITTED):
        raise ValueError("it has attributes that no network has")
    for name, value in facts["fitted"].items():
        setattr(network, name, value)
    network.target_ = _target(network, facts["target"])
    nets = [_net(network, own) for own in facts["nets"]]
    network.nets_ = [net for net, _ in nets]
    batch_size, n_batches = facts["batches"]
    network.structure_ = nets[0][1]._replace(
        sparse=facts["sparse"], device=str(network.device), batch_size=batch_size, n_batches=n_batches
    )
    return network


def _target(network: Any, facts: dict[str, Any]) -> ClassTarget | NumberTarget:
    """Build the target of a network."""
    if isinstance(network, BNMLPClassifier):
        _check(network.classes_.ndim == 1 and len(network.classes_), "its classes are none")
        return ClassTarget.of(network.classes_, bool(facts["multilabel"]))
    mean, scale = facts["mean"], facts["scale"]
    _check(
        mean.ndim == 1 and mean.dtype == scale.dtype == np.float64 and mean.shape == scale.shape, "no scale of targets"
    )
    _check(len(mean) == 1 or not facts["single"], "its targets are several and one")
    return NumberTarget.of(mean, scale, bool(facts["single"]))


def _net(network: Any, facts: dict[str, Any]) -> tuple[StackedNet, Structure]:
    """Build a net of a network, after its arrays were found to have the shapes that it asks for."""
    state = {name: torch.from_numpy(facts["state"][name]) for name in STATE}
    members = [Member(**own) for own in facts["members"]]
    records = [Record(**own) for own in facts["records"]]
    device = str(network.device)
    structure = Structure(
        n_features=network.n_features_in_,
        sparse=False,
        embedded=facts["embedded"],
        hidden_layer_sizes=facts["hidden_layer_sizes"],
        n_outputs=network.target_.n_outputs,
        activation=facts["activation"],
        batch_norm=facts["batch_norm"],
        batch_norm_eps=facts["batch_norm_eps"],
        loss=network.target_.loss,
        solver=facts["solver"],
        constants=facts["constants"],
        dtype=DTYPES[network.dtype],
        device=device if torch.device(device).type == "cpu" or torch.cuda.is_available() else "cpu",
        batch_size=facts["batch_size"],
        n_batches=0,
    )
    _check_shapes(structure, state, len(members), len(records))
    generators = [torch.Generator().manual_seed(member.seed) for member in members]
    for record in records:
        record.n_steps_before = record.n_steps[record.best_iter - 1]  # the solver is a new one
    net = make_net(structure, members).restore(state, records, generators, facts["seconds"])
    return net, structure


def _check_shapes(structure: Structure, state: dict[str, Any], n_members: int, n_records: int) -> None:
    """Refuse a net whose arrays are not those of its structure: before anything is allocated for it."""
    sizes, embedded = structure.hidden_layer_sizes, structure.embedded
    _check(all(type(size) is int and size > 0 for size in (*sizes, structure.n_features)), "its sizes are no numbers")
    _check(
        all(type(i) is int and 0 <= i < structure.n_features for i in embedded), "it embeds features that are not there"
    )
    _check(structure.activation in ACTIVATIONS and structure.batch_norm in NORMALISATIONS, "its layers are unknown")
    batch_norm = structure.batch_norm if sizes else False
    blocks = network_blocks(
        structure.n_features, sizes, structure.n_outputs, batch_norm=batch_norm, n_embedded=len(embedded)
    )
    n_kept = sum(sizes) if batch_norm else 0
    columns = {"theta": blocks[-1].stop, "running_mean": n_kept, "running_var": n_kept, "piecewise": 1}
    shapes = {name: (tuple(array.shape), array.dtype) for name, array in state.items()}
    dtypes = dict.fromkeys(STATE, structure.dtype) | {"piecewise": torch.bool}
    expected = {name: ((n_members, n), dtypes[name]) for name, n in columns.items()}
    _check(n_members == n_records > 0 and shapes == expected, "its arrays have not the shapes of its layers")


def _check(holds: Any, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _encoded(value: Any, name: str, arrays: Arrays) -> Any:
    """Return a value as JSON from which `_decoded` makes it again; numbers of arrays go to `arrays`."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {
            "dict": [[_encoded(key, name, arrays), _encoded(of, f"{name}.{key}", arrays)] for key, of in value.items()]
        }
    if isinstance(value, list | tuple):
        items = [_encoded(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, torch.Tensor):
        value = value.numpy(force=True)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        arrays[name] = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
        return {"array": name}
    if isinstance(value, np.ndarray) and value.ndim == 1 and all(isinstance(item, str) for item in value):
        return {"words": value.tolist(), "objects": value.dtype == object}
    raise ValueError(f"{name} is a {type(value).__name__}, which a model file cannot hold.")


def _decoded(value: Any, arrays: Arrays) -> Any:
    """Return what `_encoded` was given."""
    if isinstance(value, list):
        return [_decoded(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "words" in value:
        _check(all(isinstance(word, str) for word in value["words"]), "words are no words")
        return np.array(value["words"], dtype=object if value["objects"] else str)
    ((form, content),) = value.items()
    if form == "array":
        return arrays[content]
    if form == "tuple":
        return tuple(_decoded(content, arrays))
    _check(form == "dict", f"it has a {form!r}")
    return {_decoded(key, arrays): _decoded(of, arrays) for key, of in content}
