"""
What L2 did in a fit
====================

:func:`sk_bnreg.diagnose` looks at a fitted network and says through which of its parameters L2 could limit the
function, where it only set the pace of training, and whether it did nothing. A :class:`sk_bnreg.NormRecorder` notes
norms and angles while the network trains.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, InvarianceDisplay, NormRecorder, NormTrajectoryDisplay, diagnose

X, y = load_digits(return_X_y=True)


def fitted(**l2):
    network = BNMLPClassifier(
        (64, 64), n_ensemble=1, numeric_embedding=None, callbacks=[NormRecorder()], random_state=0, **l2
    )
    return make_pipeline(StandardScaler(), network).fit(X, y)


diagnosis = diagnose(fitted(l2_budget=3.0), X)
print(diagnosis)

# %%
# Less L2, or L2 on other parameters, is another answer.

for l2 in ({"l2_budget": 0.01}, {"l2_budget": 3.0, "l2_targets": "weights+gamma+beta"}):
    print(f"{l2}:\n{diagnose(fitted(**l2), X)}\n")

# %%
# The answers are tried out: groups of parameters are multiplied by 3 in the fitted network, and the change of its
# outputs is measured. Left of the dashed line it counts as none, and L2 can shrink such a group for free.

display = InvarianceDisplay.from_diagnosis(diagnosis)

# %%
# Norms in training. Those of hidden weights, the solid lines of layers 1 and 2, are free to move.

display = NormTrajectoryDisplay.from_diagnosis(diagnosis)

# %%
# What they set is by how much a step turns the weights: the effective learning rate, on the left, is the learning rate
# over the norm, and falls with it at the end of the schedule. On the right the angle of a step; the dashed line is
# where learning rate and L2 would lead it if they stayed as they are.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for ax, quantity in zip(axes, ("effective_rate", "angle"), strict=True):
    NormTrajectoryDisplay.from_diagnosis(diagnosis, quantity=quantity, ax=ax)

# %%
# The hidden weights in numbers; ``times_without_l2`` is how many times the effective learning rate is what it would be
# without L2, an estimate, and the angles are of the second half of the epochs.

columns = ["norm", "budget", "times_without_l2", "angle", "equilibrium_angle"]
print(diagnosis.layers.xs("hidden_weights", level="role")[columns].round(3).to_string())
