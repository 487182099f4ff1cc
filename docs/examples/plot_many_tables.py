"""
What many tables say together
=============================

A scheme that wins on one table may lose on the next. Here four schemes are compared on each of eight small tables, and
:class:`sk_bnreg.SurveyDisplay` and :class:`sk_bnreg.CriticalDifferenceDisplay` show what all of them say.
"""

import pandas as pd
from sklearn import datasets
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import (
    BNMLPClassifier,
    BNMLPRegressor,
    CriticalDifferenceDisplay,
    SurveyDisplay,
    compare_schemes,
)

classes = {
    "iris": datasets.load_iris(return_X_y=True),
    "wine": datasets.load_wine(return_X_y=True),
    "breast cancer": datasets.load_breast_cancer(return_X_y=True),
    "digits": datasets.load_digits(return_X_y=True),
    "moons": datasets.make_moons(200, noise=0.3, random_state=0),
    "blobs": datasets.make_classification(200, n_informative=8, n_classes=3, random_state=0),
}
numbers = {
    "diabetes": datasets.load_diabetes(return_X_y=True),
    "friedman": datasets.make_friedman1(200, noise=1.0, random_state=0),
}

# %%
# One comparison for each table, of at most 200 of its rows.

comparisons = {}
for name, (X, y) in {**classes, **numbers}.items():
    kind = BNMLPClassifier if name in classes else BNMLPRegressor
    step = -(-len(y) // 200)
    comparisons[name] = compare_schemes(
        make_pipeline(StandardScaler(), kind((32, 32), max_iter=20, n_ensemble=1, numeric_embedding=None)),
        X[::step],
        y[::step],
        schemes=["plain", "l2", "bn", "bn+l2"],
        cv=3,
        n_repeats=1,
        n_candidates=4,
        inner_cv=2,
        n_seeds=3,
        random_state=0,
        on_plan=None,
    )
scores = pd.DataFrame({name: comparison.table()["score"] for name, comparison in comparisons.items()}).T
print(scores.round(3))

# %%
# A dot is a table. Differences in the shaded region do not matter, and single tables disagree.

pairs = [("bn+l2", "bn"), ("bn+l2", "l2"), ("bn", "plain"), ("l2", "plain")]
differences = pd.DataFrame({f"{scheme} - {against}": scores[scheme] - scores[against] for scheme, against in pairs})
display = SurveyDisplay(differences, differences.median(), rope=0.01).plot()

# %%
# Mean ranks. A bar joins schemes of which Wilcoxon's test finds no two different, and eight tables are few for it.

display = CriticalDifferenceDisplay.from_scores(scores)
print(display.frame().round(3))

# %%
# Tables in a folder
# ------------------
#
# :func:`sk_bnreg.survey` does this for every .csv and .parquet file of a folder, words and dates included, with many
# more schemes, and tells with tests what they say together. It takes minutes for a table, and goes on where it was
# stopped.
#
# .. code-block:: python
#
#     found = survey("tables", "out", n_jobs=4)
#     for answer in found.answers():
#         print(answer.summary())
#     SurveyDisplay.from_survey(found)
#     CriticalDifferenceDisplay.from_scores(found.scores())
#
# ``sk-bnreg survey tables --out out`` is the same with a page of results; :doc:`/results` has those of 24 tables.
