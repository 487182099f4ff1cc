"""
Runs in MLflow
==============

skorch's ``MlflowLogger`` writes the losses of each epoch, MLflow itself the rest. ``mlflow.sklearn.autolog()`` leaves
our searches as they are. Checked with mlflow-skinny 3.17.
"""

from tempfile import mkdtemp

import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import MlflowLogger

from sk_bnreg import BNMLPClassifier, StackedGridSearchCV

folder = mkdtemp()
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")  # then: mlflow ui --backend-store-uri URI
mlflow.set_experiment("batch norm, L2, or both?")
X, y = load_breast_cancer(return_X_y=True)

# %%
# One network, epoch by epoch.

with mlflow.start_run(run_name="default") as run:
    logger = MlflowLogger(run, mlflow.MlflowClient(), create_artifact=False, terminate_after_train=False)
    network = BNMLPClassifier(max_iter=20, callbacks=[logger], random_state=0)
    model = make_pipeline(StandardScaler(), network).fit(X, y)
    mlflow.log_params({"batch_norm": network.batch_norm, "l2_targets": network.l2_targets})
    mlflow.log_metric("accuracy", model.score(X, y))
print({name: round(value, 3) for name, value in mlflow.get_run(run.info.run_id).data.metrics.items() if name != "dur"})

# %%
# A stacked search, a run for each candidate.

grid = {"bnmlpclassifier__batch_norm": [False, True], "bnmlpclassifier__l2_targets": ["none", "weights"]}
search = StackedGridSearchCV(make_pipeline(StandardScaler(), BNMLPClassifier(random_state=0)), grid).fit(X, y)
for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
    with mlflow.start_run(run_name="candidate"):
        mlflow.log_params(params)
        mlflow.log_metric("accuracy", score)
candidates = mlflow.search_runs(filter_string="run_name = 'candidate'", output_format="list")
for candidate in sorted(candidates, key=lambda candidate: -candidate.data.metrics["accuracy"]):
    print(f"{candidate.data.metrics['accuracy']:.3f}", candidate.data.params)
