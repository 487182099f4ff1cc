"""A file, or a data set that scikit-learn ships, as X, y and the kind of task; the pipeline that takes it."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from sklearn import datasets
from sklearn.preprocessing import OneHotEncoder
from skrub import tabular_pipeline

from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor

BUILT_IN = {
    "breast_cancer": ("classification", datasets.load_breast_cancer),
    "diabetes": ("regression", datasets.load_diabetes),
    "digits": ("classification", datasets.load_digits),
    "wine": ("classification", datasets.load_wine),
}
DEFAULT_SCORES = {"classification": ("accuracy", "d2_log_loss_score"), "regression": ("r2",)}  # the first is looked at
TASKS = tuple(DEFAULT_SCORES)


class TaskTable(NamedTuple):
    """Features, target and what to do with them.

    Attributes
    ----------
    name : str
        Of the file, or of the built-in table.
    X : DataFrame
    y : Series
    task : {"classification", "regression"}
    target : str
        Name of the column that became `y`.
    """

    name: str
    X: pd.DataFrame
    y: pd.Series
    task: str
    target: str

    def sample(self, max_rows: int, random_state: int) -> "TaskTable":
        """Return the table, or so many of its rows.

        Parameters
        ----------
        max_rows : int
        random_state : int
            Of the draw, which is not stratified: a rare class may have fewer rows than folds.

        Returns
        -------
        TaskTable
        """
        if len(self.X) <= max_rows:
            return self
        X = self.X.sample(max_rows, random_state=random_state)
        return self._replace(X=X, y=self.y.loc[X.index])


def read_table(source: str, *, target: str | None = None, task: str | None = None) -> TaskTable:
    """Read a CSV or parquet file, or one of `BUILT_IN` by name.

    Parameters
    ----------
    source : str
        A path that ends in .csv or .parquet (also .csv.gz and the like), or a name.
    target : str or None
        The column to predict; None is "target" if there is one, else the last column.
    task : {"classification", "regression"} or None
        None is classification for text, categories, booleans and whole numbers with at
        most 20 values, regression for other numbers.

    Returns
    -------
    TaskTable

    Raises
    ------
    ValueError
        If there is no such file, format, column or task, or target values are missing.

    Examples
    --------
    >>> from sk_bnreg.study.tables import read_table
    >>> table = read_table("wine")
    >>> table.X.shape, table.task
    ((178, 13), 'classification')
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task must be one of {TASKS}, got {task!r}.")
    if source in BUILT_IN and target is not None:
        raise ValueError(f"target names a column of a file; the target of {source!r} is fixed.")
    if source in BUILT_IN:
        kind, load = BUILT_IN[source]
        bunch = load(as_frame=True)
        return TaskTable(source, bunch.data, bunch.target, task or kind, "target")
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"There is no file {source!r}; give a .csv or .parquet file, or one of {sorted(BUILT_IN)}.")
    # pandas sees by itself how a .csv.gz is packed
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".csv" in suffixes:
        frame = pd.read_csv(path)
    elif suffixes[-1:] == [".parquet"]:
        frame = pd.read_parquet(path)
    else:
        raise ValueError(f"The table must be a .csv or .parquet file, got {source!r}.")
    if target is None:
        target = "target" if "target" in frame else str(frame.columns[-1])
    if target not in frame:
        raise ValueError(
            f"The table has no column {target!r} to predict; its columns are {list(map(str, frame.columns))}."
        )
    # one column is what a file with other separators than commas looks like
    if len(frame.columns) < 2 or frame.empty:
        raise ValueError(
            f"The table needs rows and, separated by commas, columns beside the target; got {frame.shape}."
        )
    frame = frame.reset_index(drop=True)  # parquet keeps an index, which may have repeats
    y = frame.pop(target)
    if y.isna().any():
        raise ValueError(
            f"The target {target!r} is missing in {int(y.isna().sum())} of {len(y)} rows; drop or fill them."
        )
    if task is None:
        # whole numbers are often names of classes; more than 20 of them are rather a count
        few_whole = pd.api.types.is_integer_dtype(y) and y.nunique() <= 20
        numeric = pd.api.types.is_numeric_dtype(y) and not pd.api.types.is_bool_dtype(y)
        task = "regression" if numeric and not few_whole else "classification"
    return TaskTable(path.name, frame, y, task, target)


def network_pipeline(task: str) -> Any:
    """Return the default network for a task behind skrub's steps for mixed tables.

    Parameters
    ----------
    task : {"classification", "regression"}

    Returns
    -------
    Pipeline
    """
    kind = BNMLPClassifier if task == "classification" else BNMLPRegressor
    pipeline = tabular_pipeline(kind())
    # a category that a fold never saw is all zeros; with skrub's drop="if_binary" each one would warn
    return pipeline.set_params(
        tablevectorizer__low_cardinality=OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    )
