"""
A report of skore's, with the test that it lacks
================================================

skore gathers what scikit-learn measures, fold by fold; :meth:`sk_bnreg.SchemeComparison.from_skore` says whether two
of its models differ. Checked with skore 0.28.
"""

from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skore import ComparisonReport, CrossValidationReport

from sk_bnreg import BNMLPClassifier, SchemeComparison

X, y = load_breast_cancer(return_X_y=True)
reports = {
    f"L2 on {targets}": CrossValidationReport(
        make_pipeline(StandardScaler(), BNMLPClassifier(l2_targets=targets, random_state=0)), X, y, splitter=5
    )
    for targets in ("none", "weights")
}
report = ComparisonReport(reports)
print(report.metrics.summarize().frame())

# %%
# Do they differ? The test is that of ``sk-bnreg compare``.

print(SchemeComparison.from_skore(report).sentence())
