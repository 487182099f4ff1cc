"""A file, or a data set that scikit-learn ships, as X, y and the kind of task; the pipeline that takes it."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from sklearn import datasets
from sklearn.preprocessing import OneHotEncoder
from skrub import ToDatetime, tabular_pipeline

from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor
from sk_bnreg.study.files import FORMATS, read_frame

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
    notes : tuple of str
        What was done to read it.
    """

    name: str
    X: pd.DataFrame
    y: pd.Series
    task: str
    target: str
    notes: tuple[str, ...] = ()

    def kinds(self) -> dict[str, int]:
        """Return how many columns are of numbers, of words, of dates (also as text) and of categories."""
        return dict(Counter(_kind(self.X[name]) for name in self.X).most_common())

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
    """Read a file of any of `files.FORMATS`, or one of `BUILT_IN` by name.

    Parameters
    ----------
    source : str
        A path, or a name.
    target : str or None
        The column to predict; None is "target" if there is one, else the last column.
    task : {"classification", "regression"} or None
        None is classification for text, categories, booleans and whole numbers with at
        most 20 values, regression for other numbers. Rows without a target are left out.

    Returns
    -------
    TaskTable

    Raises
    ------
    ValueError
        If there is no such file, format, column or task, or the target is of dates or of words of which hardly any is
        there twice.

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
        raise ValueError(
            f"There is no file {source!r}; give one of {', '.join(FORMATS)}, or a name of {sorted(BUILT_IN)}."
        )
    frame, notes = read_frame(path, [] if target is None else [target])
    if len(frame.columns) < 2 or frame.empty:
        raise ValueError(f"The table needs rows, and columns beside the target; got {frame.shape}.")
    if target is None:
        target = "target" if "target" in frame else str(frame.columns[-1])
    if target not in frame:
        raise ValueError(f"The table has no column {target!r} to predict; its columns are {list(frame.columns)}.")
    y = frame.pop(target)
    n_gaps = int(y.isna().sum())
    if n_gaps:
        notes.append(f"{n_gaps} rows without a target left out")
        kept = y.notna().to_numpy()
        frame, y = frame[kept].reset_index(drop=True), y[kept].reset_index(drop=True)
    y, found = _target(y, target)
    if task == "regression" and not pd.api.types.is_numeric_dtype(y):
        raise ValueError(f"The target {target!r} is of words, such as {y.iloc[0]!r}: a regression needs numbers.")
    return TaskTable(path.name, frame, y, task or found, target, tuple(notes))


def _kind(column: pd.Series) -> str:
    """Return "dates", "numbers", "categories" or "words", as the pipeline takes a column."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return "dates"
    if pd.api.types.is_numeric_dtype(column):
        return "numbers"
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "categories"
    try:
        ToDatetime().fit_transform(column.dropna().iloc[:1000])
    except ValueError:  # skrub's way to say that it finds no format
        return "words"
    return "dates"


def _target(y: pd.Series, name: str) -> tuple[pd.Series, str]:
    """Return a target without gaps in its own type, and the task that it asks for."""
    if not len(y):
        raise ValueError(f"The target {name!r} is missing in all rows.")
    if pd.api.types.is_datetime64_any_dtype(y):
        raise ValueError(f"The target {name!r} is a date: make it a number, such as days since the first.")
    if not pd.api.types.is_numeric_dtype(y):
        if y.nunique() > max(20, len(y) // 2):
            raise ValueError(
                f"The target {name!r} is of words, {y.nunique()} different ones in {len(y)} rows: neither classes nor "
                "numbers."
            )
        return y, "classification"
    if pd.api.types.is_bool_dtype(y):
        return y, "classification"
    # whole numbers are often names of classes, also where a gap has made them floats; more than 20 are rather a count
    if y.nunique() <= 20 and (y % 1 == 0).all():
        return y.astype(int), "classification"
    return y, "regression"


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
