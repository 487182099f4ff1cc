"""
A model file that runs no code, and an ONNX graph
=================================================

:func:`sk_bnreg.save_model` writes a fitted pipeline as arrays and JSON, :func:`sk_bnreg.load_model` opens it again, and
:func:`sk_bnreg.to_onnx` makes a graph for where there is no Python. All three give the same predictions: to the bit, or
to rounding. Checked with onnxruntime 1.32.
"""

from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
from onnxruntime import InferenceSession
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, load_model, save_model, to_onnx

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, _ = train_test_split(X, y, random_state=0)
model = make_pipeline(StandardScaler(), BNMLPClassifier(max_iter=20, n_ensemble=4, random_state=0))
model.fit(X_train, y_train)
probabilities = model.predict_proba(X_test)

# %%
# The model file has the steps before the network too. What is loaded from it is an ordinary pipeline.

path = Path(mkdtemp()) / "digits.safetensors"
save_model(model, path)
loaded = load_model(path)
print(type(loaded).__name__, "same to the bit:", np.array_equal(loaded.predict_proba(X_test), probabilities))

# %%
# The graph has the whole ensemble in it, and the scaler. onnxruntime takes the rows as doubles.

graph = to_onnx(model)
session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
label, by_graph = session.run(["label", "probabilities"], {"X": X_test})
print("same labels:", np.array_equal(label, model.predict(X_test)))
print("input and outputs:", [value.name for value in (*graph.graph.input, *graph.graph.output)])

# %%
# A dot is a class of a test row. On the left the probabilities against each other, on the right how far they are apart.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(probabilities.ravel(), by_graph.ravel(), ".", alpha=0.3)
left.set(xlabel="probability, model", ylabel="probability, ONNX graph", aspect="equal")
right.plot(probabilities.ravel(), (by_graph - probabilities).ravel(), ".", alpha=0.3)
right.axhline(0, color="black", linewidth=0.8)
_ = right.set(xlabel="probability, model", ylabel="graph minus model")
