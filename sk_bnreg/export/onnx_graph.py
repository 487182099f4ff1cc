"""to_onnx: a fitted network, or a pipeline that ends in one, as an ONNX graph. Its import also tells skl2onnx how.

A network of an ensemble is a part of the graph: embeddings, a product for each layer, with batch norm folded into its
weights, and activations. skrub's steps for mixed tables are written here, those of scikit-learn by skl2onnx.
"""

from itertools import chain
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sk_bnreg.borrowed import words_of_nothing
from sk_bnreg.engine.embedding import SIZE
from sk_bnreg.engine.net import StackedNet
from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor
from sk_bnreg.estimators.pipelines import emptied, network_in

OPSET, ML_OPSET, IR_VERSION = 18, 3, 9  # of ONNX 1.14, which onnxruntime reads since 1.15 (2023)


def to_onnx(estimator: Any, X: Any = None) -> onnx.ModelProto:
    """Return a fitted network, or a pipeline that ends in one, as an ONNX model.

    A network has one input "X", double ``(n_samples, n_features)``. Behind `skrub.tabular_pipeline` every column is an
    input of its own, by its name: numbers double ``(n_samples, 1)``, nan where missing and booleans as 0 and 1;
    categories strings ``(n_samples, 1)``, "" where missing. A classifier's outputs are "label" and "probabilities",
    float ``(n_samples, n_classes)``, a regressor's is "variable", double ``(n_samples, n_targets)``. The opset is 18.

    Parameters
    ----------
    estimator : estimator
        Fitted: a `BNMLPClassifier` or `BNMLPRegressor`, or a pipeline that ends in one, with steps that skl2onnx knows
        or those of `skrub.tabular_pipeline` for numbers and categories.
    X : DataFrame or ndarray, default=None
        Some rows, which tell skl2onnx the inputs of a pipeline of scikit-learn's; None is one array of doubles.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ValueError
        If a step or a column cannot be converted; it is named.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, to_onnx
    >>> model = to_onnx(BNMLPClassifier(random_state=0).fit(*load_iris(return_X_y=True)))
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    empty = emptied(estimator)
    check_is_fitted(estimator)
    network = network_in(estimator)[0]
    graph = _Graph()
    if empty is None:
        _write_network(graph, network, graph.input("X", TensorProto.DOUBLE, network.n_features_in_))
        return graph.model()
    first = estimator.steps[0][1] if isinstance(estimator, Pipeline) else None
    if type(first).__name__ == "TableVectorizer" and estimator.steps[-1][1] is network:
        x = _write_columns(graph, first)
        for name, step in estimator.steps[1:-1]:
            if type(step).__name__ not in _STEPS:
                raise ValueError(f"The step {name!r}, a {type(step).__name__}, cannot be converted to ONNX.")
            x = _STEPS[type(step).__name__](graph, step, x)
        _write_network(graph, network, x)
        return graph.model()
    return _by_skl2onnx(estimator, X)


class _Graph:
    """Nodes, constants, inputs and outputs of a graph as it grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, kind: int, n_columns: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, [None, n_columns]))
        return name

    def output(self, value: str, name: str, kind: int, n_columns: int | None) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"to_{name}"))
        shape = [None] if n_columns is None else [None, n_columns]
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, array: Any) -> str:
        name = f"sk_bnreg.c{len(self.constants)}"  # a column may be called c0
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"sk_bnreg.n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def cast(self, x: str, kind: int) -> str:
        return self.node("Cast", x, to=kind)

    def columns(self, x: str, columns: Any) -> str:
        return self.node("Gather", x, self.constant(np.asarray(columns, np.int64)), axis=1)

    def model(self) -> onnx.ModelProto:
        taken = {own.name for own in self.inputs} & {own.name for own in self.outputs}
        if taken:
            raise ValueError(
                f"X has the column {taken.pop()!r}, which is what an output of the graph is called: rename it."
            )
        graph = helper.make_graph(self.nodes, "sk_bnreg", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, producer_name="sk_bnreg", opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def _write_network(graph: _Graph, network: Any, x: str) -> None:
    """Write an ensemble on features ``(N, D)``, and its outputs."""
    outputs = list(chain.from_iterable(_member_outputs(graph, net, x) for net in network.nets_))
    target = network.target_
    if not is_classifier(network):
        mean = graph.node("Div", graph.node("Sum", *outputs), graph.constant(_of(network, len(outputs))))
        scaled = graph.node("Mul", graph.cast(mean, TensorProto.DOUBLE), graph.constant(target.scale))
        graph.output(
            graph.node("Add", scaled, graph.constant(target.mean)), "variable", TensorProto.DOUBLE, target.n_outputs
        )
        return
    classes = network.classes_
    if target.multilabel:
        yes = _sum_of_roots(graph, [graph.node("Sigmoid", one) for one in outputs])
        no = _sum_of_roots(graph, [graph.node("Sigmoid", graph.node("Neg", one)) for one in outputs])
        probability = graph.node("Div", yes, graph.node("Add", yes, no))
        over = graph.node("Greater", probability, graph.constant(_of(network, 0.5)))
        graph.output(graph.cast(over, TensorProto.INT64), "label", TensorProto.INT64, len(classes))
    else:
        if len(classes) == 2:
            outputs = [graph.node("Concat", graph.node("Neg", one), one, axis=1) for one in outputs]
        squares = _sum_of_roots(
            graph,
            [graph.node("Sigmoid", o) if len(classes) == 2 else graph.node("Softmax", o, axis=1) for o in outputs],
        )
        total = graph.node("ReduceSum", squares, graph.constant(np.array([1])), keepdims=1)
        probability = graph.node("Div", squares, total)
        most = graph.node("ArgMax", probability, axis=1, keepdims=0)
        labels, kind = _labels(classes)
        graph.output(graph.node("Gather", graph.constant(labels), most), "label", kind, None)
    graph.output(graph.cast(probability, TensorProto.FLOAT), "probabilities", TensorProto.FLOAT, len(classes))


def _sum_of_roots(graph: _Graph, probabilities: list[str]) -> str:
    """Return the squares of what networks' probabilities have as sum of roots: `mean_of_roots`, but for a factor."""
    roots = graph.node("Sum", *(graph.node("Sqrt", one) for one in probabilities))
    return graph.node("Mul", roots, roots)


def _labels(classes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Return classes as ONNX has them, and their type."""
    if classes.dtype.kind in "iu":
        return classes.astype(np.int64), TensorProto.INT64
    if classes.dtype.kind == "f":
        return classes.astype(np.float64), TensorProto.DOUBLE
    if classes.dtype.kind == "b":
        return classes, TensorProto.BOOL
    return classes.astype(str).astype(object), TensorProto.STRING


def _of(network: Any, value: Any) -> NDArray[Any]:
    """Return numbers in a network's precision."""
    return np.asarray(value, network.dtype)


def _member_outputs(graph: _Graph, net: StackedNet, x: str) -> list[str]:
    """Write the members of a net on features ``(N, D)``, each with its own outputs ``(N, C)``."""
    module = net.module_
    theta = module.theta.data.double()
    precision = module.theta.numpy(force=True).dtype
    x = graph.cast(x, helper.np_dtype_to_tensor_dtype(precision))
    embeddings = [view.numpy(force=True).astype(precision) for view in module.blocks(theta)["embeddings"]]
    layers: list[Any] = [[p if p is None else p.numpy(force=True) for p in layer] for layer in module.layers(theta)]
    running = [[part.double().numpy(force=True) for part in statistics] for statistics in module.running_statistics()]
    if embeddings:
        some = graph.columns(x, module.embedded.tolist())
        rows = graph.node("Unsqueeze", graph.node("Transpose", some, perm=[1, 0]), graph.constant(np.array([2])))
    outputs = []
    for m in range(len(theta)):
        value = x
        for parameters in embeddings:
            value = graph.node("Concat", x, _embedded(graph, rows, parameters[m], bool(module.piecewise[m])), axis=1)
        for layer, (weight, shift, scale) in enumerate(layers):
            own, bias = weight[m], shift[m][:, 0]
            if scale is not None:  # batch norm, folded into the weights
                mean, var = (statistic[m] for statistic in running[layer])
                factor = scale[m] / np.sqrt(var)
                own, bias = factor * own, bias - (factor * mean)[:, 0]
            own, bias = own.astype(precision), bias.astype(precision)
            value = graph.node("Gemm", value, graph.constant(own), graph.constant(bias), transB=1)
            if layer < len(layers) - 1:
                value = _ACTIVATIONS[module.activation](graph, value, precision)
        outputs.append(value)
    return outputs


def _embedded(graph: _Graph, rows: str, parameters: NDArray[Any], piecewise: bool) -> str:
    """Write the embeddings ``(N, E * S)`` of features ``(E, N, 1)``; parameters are ``(E, F, 2 + S)``."""
    slope, shift, weight = np.split(parameters, [1, 2], axis=2)
    # in double precision older releases of onnxruntime have no cosine
    as_sine = not piecewise and parameters.dtype == np.float64
    first = (slope, shift + np.pi / 2 if as_sine else shift)
    of_slope, of_shift = (graph.constant(np.ascontiguousarray(part.transpose(0, 2, 1))) for part in first)
    z = graph.node("Add", graph.node("Mul", rows, of_slope), of_shift)  # (E, N, F)
    if piecewise:
        values = graph.node("Clip", z, *(graph.constant(np.asarray(bound, parameters.dtype)) for bound in (0, 1)))
    else:
        values = graph.node("Sin" if as_sine else "Cos", z)
    mixed = graph.node("MatMul", values, graph.constant(np.ascontiguousarray(weight)))  # (E, N, S)
    by_row = graph.node("Transpose", mixed, perm=[1, 0, 2])
    return graph.node("Reshape", by_row, graph.constant(np.array([-1, len(parameters) * SIZE])))


def _gelu(graph: _Graph, x: str, precision: Any) -> str:
    half, root = (graph.constant(np.asarray(value, precision)) for value in (0.5, 0.5**0.5))
    scaled = graph.node("Mul", x, root)
    # onnxruntime has erf in single precision alone
    erf = graph.cast(
        graph.node("Erf", graph.cast(scaled, TensorProto.FLOAT)), helper.np_dtype_to_tensor_dtype(precision)
    )
    part = graph.node("Add", graph.node("Mul", erf, half), half)
    return graph.node("Mul", x, part)


def _silu(graph: _Graph, x: str, precision: Any) -> str:
    # x * Sigmoid(x), older releases of onnxruntime fuse to something that they have in single precision alone
    one = graph.constant(np.asarray(1, precision))
    return graph.node("Div", x, graph.node("Add", graph.node("Exp", graph.node("Neg", x)), one))


_ACTIVATIONS = {
    "identity": lambda graph, x, precision: x,
    "logistic": lambda graph, x, precision: graph.node("Sigmoid", x),
    "tanh": lambda graph, x, precision: graph.node("Tanh", x),
    "relu": lambda graph, x, precision: graph.node("Relu", x),
    "gelu": _gelu,
    "silu": _silu,
}


def _write_columns(graph: _Graph, vectorizer: Any) -> str:
    """Write skrub's TableVectorizer: an input for each column that it keeps; features in single precision."""
    kinds = {column: kind for kind, columns in vectorizer.kind_to_columns_.items() for column in columns}
    others = {column: kind for column, kind in kinds.items() if kind not in ("numeric", "low_cardinality")}
    if others:
        raise ValueError(
            "Numbers and categories of few values can be converted to ONNX, but not the columns "
            + ", ".join(f"{column!r} ({kind.replace('_', ' ')})" for column, kind in others.items())
            + ": leave them out of the table, or put numbers made of them in their place, and fit again."
        )
    parts, names = [], []
    for column in vectorizer.feature_names_in_:
        if column not in kinds:
            continue  # dropped as uninformative
        step = vectorizer.transformers_[column]
        names += vectorizer.input_to_outputs_[column]
        if kinds[column] == "numeric" and type(step).__name__ == "PassThrough":
            parts.append(graph.cast(graph.input(str(column), TensorProto.DOUBLE, 1), TensorProto.FLOAT))
        elif type(step).__name__ == "OneHotEncoder":
            parts.append(_one_hot(graph, step, str(column)))
        else:
            raise ValueError(f"The column {column!r}, encoded by {type(step).__name__}, cannot be converted to ONNX.")
    if names != list(vectorizer.get_feature_names_out()):
        raise ValueError("This version of skrub orders columns in a way that is not known here.")
    return graph.node("Concat", *parts, axis=1)


def _one_hot(graph: _Graph, encoder: Any, column: str) -> str:
    (categories,) = encoder.categories_
    missing = [i for i, category in enumerate(categories) if category is None or category != category]
    words = [category for i, category in enumerate(categories) if i not in missing]
    known = not hasattr(encoder, "infrequent_categories_") and encoder.handle_unknown == "ignore"
    if not known or not all(isinstance(word, str) for word in words):
        raise ValueError(
            f"The column {column!r} cannot be converted to ONNX: its OneHotEncoder must be of text, with "
            "handle_unknown='ignore' and no infrequent categories."
        )
    keys = {category: i for i, category in enumerate(categories) if i not in missing}
    keys = {**dict.fromkeys(words_of_nothing(), missing[0] if missing else -1), **keys}
    code = graph.node(
        "LabelEncoder", graph.input(column, TensorProto.STRING, 1), domain="ai.onnx.ml",
        keys_strings=list(keys), values_int64s=list(keys.values()), default_int64=-1,
    )  # fmt: skip
    dropped = [] if encoder.drop_idx_ is None or encoder.drop_idx_[0] is None else [encoder.drop_idx_[0]]
    kept = np.setdiff1d(np.arange(len(categories)), dropped)
    return graph.cast(graph.node("Equal", code, graph.constant(kept[None])), TensorProto.FLOAT)


def _impute(graph: _Graph, imputer: Any, x: str) -> str:
    """Write scikit-learn's SimpleImputer on single precision."""
    if not (isinstance(imputer.missing_values, float) and np.isnan(imputer.missing_values)):
        raise ValueError(
            f"A SimpleImputer of missing_values={imputer.missing_values!r} cannot be converted to ONNX here."
        )
    statistics = np.asarray(imputer.statistics_, np.float64)
    missing = graph.node("IsNaN", x)
    filled = graph.node("Where", missing, graph.constant(statistics.astype(np.float32)[None]), x)
    known = np.flatnonzero(~np.isnan(statistics))  # others have no value to fill them with, and are dropped
    parts = [filled if len(known) == len(statistics) else graph.columns(filled, known)]
    if imputer.add_indicator and len(imputer.indicator_.features_):
        parts.append(graph.cast(graph.columns(missing, imputer.indicator_.features_), TensorProto.FLOAT))
    return graph.node("Concat", *parts, axis=1)


def _squash(graph: _Graph, scaler: Any, x: str) -> str:
    """Write skrub's SquashingScaler on single precision."""
    center, factor = np.zeros((2, scaler.n_features_in_))
    if scaler.robust_scaler_ is not None:
        center[scaler.robust_cols_] = scaler.robust_scaler_.center_
        factor[scaler.robust_cols_] = 1 / scaler.robust_scaler_.scale_
    if scaler.minmax_scaler_ is not None:
        center[scaler.minmax_cols_] = scaler.minmax_scaler_.median_
        factor[scaler.minmax_cols_] = scaler.minmax_scaler_.scale_
    center, factor, largest, one = (
        graph.constant(np.asarray(value, np.float32)) for value in (center, factor, scaler.max_absolute_value, 1.0)
    )
    z = graph.node("Mul", graph.node("Sub", x, center), factor)
    share = graph.node("Div", z, largest)
    return graph.node("Div", z, graph.node("Sqrt", graph.node("Add", graph.node("Mul", share, share), one)))


_STEPS = {"SimpleImputer": _impute, "SquashingScaler": _squash}


def _by_skl2onnx(estimator: Any, X: Any) -> onnx.ModelProto:
    """Convert a pipeline of scikit-learn's steps."""
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType

    if X is not None and getattr(X, "ndim", 0) != 2:
        raise ValueError(f"X must be a DataFrame or an array of two axes, got {type(X).__name__}.")
    types = None if X is not None else [("X", DoubleTensorType([None, estimator.n_features_in_]))]
    opsets = {"": OPSET, "ai.onnx.ml": ML_OPSET}
    options = {"zipmap": False} if is_classifier(estimator) else None
    try:
        return skl2onnx.to_onnx(
            estimator, None if X is None else X[:1], initial_types=types, options=options, target_opset=opsets
        )
    except Exception as error:  # skl2onnx has many for a step that it does not know
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"skl2onnx cannot convert this estimator with such an X: {reason}.") from error


def _register() -> None:
    """Tell skl2onnx, if it is there, how to convert networks."""
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx.common import data_types as types
        from skl2onnx.helpers.integration import add_onnx_graph
    except ImportError:
        return

    kinds: dict[int, Any] = {
        TensorProto.INT64: types.Int64TensorType, TensorProto.STRING: types.StringTensorType,
        TensorProto.FLOAT: types.FloatTensorType, TensorProto.BOOL: types.BooleanTensorType,
        TensorProto.DOUBLE: types.DoubleTensorType,
    }  # fmt: skip

    def shapes(operator: Any) -> None:
        network = operator.raw_operator
        for output, found in zip(operator.outputs, _graph_of(network, TensorProto.DOUBLE).outputs, strict=True):
            shape = [dim.dim_value or None for dim in found.type.tensor_type.shape.dim]
            output.type = kinds[found.type.tensor_type.elem_type](shape)

    def convert(scope: Any, operator: Any, container: Any) -> None:
        kind = next(kind for kind, of in kinds.items() if isinstance(operator.inputs[0].type, of))
        add_onnx_graph(scope, operator, container, _graph_of(operator.raw_operator, kind).model())

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "raw_scores": [False]}
    for network, of in ((BNMLPClassifier, options), (BNMLPRegressor, None)):
        update_registered_converter(network, f"SkBnreg{network.__name__}", shapes, convert, options=of)


def _graph_of(network: Any, kind: int) -> _Graph:
    graph = _Graph()
    _write_network(graph, network, graph.input("X", kind, network.n_features_in_))
    return graph


_register()
