"""
A mixed table, with skrub
=========================

:func:`skrub.tabular_pipeline` puts the steps for words, dates and gaps before the network, with the scaler that skrub
has for neural networks. In skrub's DataOps a network's parameters take choices as any do. Checked with skrub 0.11.
"""

import numpy as np
import pandas as pd
import skrub
from sklearn.model_selection import cross_val_score

from sk_bnreg import BNMLPClassifier

# %%
# A table as it comes: words, dates, gaps.

rng = np.random.default_rng(0)
orders = pd.DataFrame(
    {
        "city": rng.choice(["Ulm", "Bremen", "Bad Ems"], 400),
        "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 365, 400), unit="D"),
        "price": rng.lognormal(3, 1, 400),
    }
)
late = (orders["city"] == "Ulm") + (orders["day"].dt.month > 6) + rng.normal(0, 0.3, 400) > 0.5
orders.loc[::11, "price"] = np.nan

pipeline = skrub.tabular_pipeline(BNMLPClassifier(random_state=0))
scores = cross_val_score(pipeline, orders, late)
print(f"accuracy {scores.mean():.2f}, of the more frequent class {max(late.mean(), 1 - late.mean()):.2f}")

# %%
# The same as a learner of DataOps, which tunes what is marked as a choice.

network = BNMLPClassifier(
    batch_norm=skrub.choose_bool(name="batch norm"),
    l2_targets=skrub.choose_from(["none", "weights"], name="L2 on"),
    random_state=0,
)
predicted = skrub.X(orders).skb.apply(skrub.tabular_pipeline(network), y=skrub.y(late))
search = predicted.skb.make_grid_search(fitted=True, cv=3)
print(search.results_.round(2).to_string(index=False))
