"""
Losses in TensorBoard
=====================

skorch's callbacks go in through ``callbacks``. Checked with TensorBoard 2.21.
"""

from tempfile import mkdtemp

from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import TensorBoard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from sk_bnreg import BNMLPClassifier

folder = mkdtemp()  # then: tensorboard --logdir FOLDER
X, y = load_breast_cancer(return_X_y=True)
with SummaryWriter(folder) as writer:
    network = BNMLPClassifier(max_iter=20, callbacks=[TensorBoard(writer)], random_state=0)
    make_pipeline(StandardScaler(), network).fit(X, y)

# %%
# What was written, an epoch each:

written = EventAccumulator(folder).Reload()
for name in ("Loss/train_loss", "Loss/valid_loss"):
    print(name, [round(event.value, 3) for event in written.Scalars(name)][::5])
