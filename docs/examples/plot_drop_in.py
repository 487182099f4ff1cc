"""
In place of MLPClassifier
=========================

The same code and the same arguments, once with scikit-learn's network and once with :class:`sk_bnreg.BNMLPClassifier`.
The name is all that changes in the code. What the two do by default is not the same, so that two more networks stand
beside them: scikit-learn's with early stopping, and ours without all that it has more.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier

X, y = load_breast_cancer(return_X_y=True)
arguments = {"hidden_layer_sizes": (64, 64), "learning_rate_init": 0.01, "max_iter": 60, "random_state": 0}
networks = {
    "MLPClassifier": MLPClassifier(**arguments),
    "BNMLPClassifier": BNMLPClassifier(**arguments),
    "MLPClassifier, early stopping": MLPClassifier(**arguments, early_stopping=True),
}

# %%
# By default a :class:`sk_bnreg.BNMLPClassifier` has batch norm and L2, is the mean of eight networks, embeds numbers,
# lets the learning rate fall and keeps the epoch with the least loss on rows that it sets aside. These arguments make
# scikit-learn's network of it, whose ``alpha`` is ``l2`` times the rows of a batch.

networks["BNMLPClassifier, plain"] = BNMLPClassifier(
    **arguments,
    batch_norm=False,
    l2=0.0001 / 200,
    l2_mode="loss",
    n_ensemble=1,
    numeric_embedding=None,
    learning_rate="constant",
    early_stopping=False,
    n_iter_no_change=10,
    batch_size=200,
)
found = {
    name: cross_validate(
        make_pipeline(StandardScaler(), network),
        X,
        y,
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        scoring="neg_log_loss",
        return_estimator=True,
    )
    for name, network in networks.items()
}

# %%
# On the left the log loss on the test rows of each fold, and its mean. On the right the training loss in the first
# fold, of an ensemble that of its first network: the lowest one is not the best one. Nothing was tuned, the learning
# rate is our default and ten times scikit-learn's, and this is one table: :doc:`/accuracy` has 24.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for place, result in enumerate(found.values()):
    losses = -result["test_score"]
    (dots,) = left.plot(losses, [place] * len(losses), "o", alpha=0.5, mew=0)
    left.plot(losses.mean(), place, "D", color=dots.get_color(), markersize=9)
    right.plot(result["estimator"][0][-1].loss_curve_, color=dots.get_color())
left.set_yticks(range(len(found)), found)
left.set(xlabel="log loss, test rows of 5 folds; ◆ mean", xlim=0, ylim=(len(found) - 0.5, -0.5))
right.set(xlabel="epoch", ylabel="training loss (logarithmic)", yscale="log")
for name, result in found.items():
    print(f"{name:31}{-result['test_score'].mean():.3f}")
