"""survey: the study over every table in a folder, and what all of them say together."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pandas as pd
from joblib.parallel import get_active_backend

from sk_bnreg.borrowed import Interval
from sk_bnreg.estimators.checks import check_arguments
from sk_bnreg.estimators.networks import BNMLPClassifier
from sk_bnreg.search.evaluation import as_they_come, attempt
from sk_bnreg.stats.folds import WORDS, holm
from sk_bnreg.stats.tables import Ranking, SignedRank, counted, ranking, signed_rank
from sk_bnreg.study.compare import BUDGETS, PARAMETERS, compare_schemes
from sk_bnreg.study.comparison import SchemeComparison
from sk_bnreg.study.files import table_format
from sk_bnreg.study.held_out import as_path, undamaged
from sk_bnreg.study.questions import asked_of, chosen_schemes
from sk_bnreg.study.schemes import Question
from sk_bnreg.study.store import alone_in, write_whole
from sk_bnreg.study.tables import DEFAULT_SCORES, network_pipeline, read_table
from sk_bnreg.study.warned import recorded

_PARAMETERS = {
    **PARAMETERS,
    "folder": [str, PathLike],
    "out": [str, PathLike],
    "max_rows": [Interval(Integral, 1, None, closed="left")],
    "n_folds": [Interval(Integral, 2, None, closed="left")],
    "schemes": [None, "array-like"],
    "scoring": [None, list, tuple],
    "rope": [None, Interval(Real, 0, None, closed="neither")],
    "inner_cv": [Interval(Integral, 2, None, closed="left")],
    "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
    "on_table": [None, callable],
}


@dataclass(frozen=True)
class SurveyAnswer:
    """What all tables together say of a question.

    Attributes
    ----------
    question : Question
    differences : Series
        Mean difference of the question's two schemes on each table.
    answers : dict of str to int
        How many tables by themselves say each of `WORDS`.
    test : SignedRank
    p_holm : float
        The Wilcoxon p-value, adjusted by Holm's method for all questions asked together.
    """

    question: Question
    differences: pd.Series
    answers: dict[str, int]
    test: SignedRank
    p_holm: float

    def summary(self) -> str:
        """Return the answer as one sentence."""
        test, (subject, given, *_) = self.test, self.question
        each = ", ".join(f"{word} on {n}" for word, n in self.answers.items() if n)
        return (
            f"{subject[0].upper()}{subject[1:]} {test.verb} given {given}: median difference {test.median:+z.4f} over "
            f"{counted(test.n_tables, 'table')}, P(worse) {test.p_worse:.2f}, P(within {test.rope:g}) "
            f"{test.p_equivalent:.2f}, P(better) {test.p_better:.2f}, Wilcoxon p {self.p_holm:.2g} (Holm). "
            f"By themselves: {each}."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Survey:
    """What a study found on many tables.

    Attributes
    ----------
    frame : DataFrame
        The rows of every table's `SchemeComparison.frame`, with the table's name, task, size
        and rope, and as `headline` the first of its scores.
    settings : dict
        With which the survey was made.
    skipped : dict of str to str
        Tables that could not be used, and why.
    n_networks : int
        Networks of which each score is of the mean prediction.
    metric : str or None
        By which the schemes are compared; None is each table's first score.
    """

    frame: pd.DataFrame
    settings: dict[str, Any]
    skipped: dict[str, str]
    n_networks: int = 1
    metric: str | None = None

    def __repr__(self) -> str:
        return f"Survey({counted(self.frame['table'].nunique(), 'table')}, {len(self.schemes)} schemes)"

    @property
    def single(self) -> "Survey":
        """The survey of single networks, where this one is of means of several."""
        return replace(self, n_networks=1)

    def by(self, metric: str) -> "Survey":
        """Return the survey by another score, of the tables that have it."""
        if not isinstance(metric, str) or metric not in self.metrics:
            raise ValueError(f"metric must be a score of some table, one of {self.metrics}, got {metric!r}.")
        has_it = self.frame.loc[self.frame["metric"] == metric, "table"].unique()
        return replace(self, frame=self.frame[self.frame["table"].isin(has_it)], metric=metric)

    @property
    def metrics(self) -> list[str]:
        """Names of all scores."""
        return list(self.frame["metric"].unique())

    @property
    def schemes(self) -> list[str]:
        """Names of the schemes, in the order in which they were given."""
        return list(self.frame["scheme"].unique())

    @property
    def rope(self) -> float:
        """Differences smaller than this do not matter."""
        return float(self._rows["rope"].iloc[0])

    def tables(self) -> pd.DataFrame:
        """Return a row per table: task, metric, rows (in the file, and used), columns, folds and network fits."""
        by = self._rows.groupby("table", sort=False)
        tables = by[["task", "metric", "n_rows", "n_used", "n_features"]].first()
        fold = ["table", "repeat", "fold"]
        # a fold that got more seeds has rows of each time
        once = self.frame.drop_duplicates([*fold, "elapsed"] if "elapsed" in self.frame else fold)
        folds = self.frame.drop_duplicates(fold).groupby("table", sort=False)
        return tables.assign(n_folds=folds.size(), n_fits=once.groupby("table", sort=False)["n_fits"].sum())

    def scores(self) -> pd.DataFrame:
        """Return mean scores, tables by schemes."""
        return self._rows.pivot_table(index="table", columns="scheme", values="score", sort=False)[self.schemes]

    def comparison(self, table: str) -> SchemeComparison:
        """Return the comparison on one table.

        Parameters
        ----------
        table : str

        Returns
        -------
        SchemeComparison
            Of scores alone: what the schemes are made of is not kept.
        """
        rows = self._rows
        names = list(rows["table"].unique())
        if not isinstance(table, str) or table not in names:
            raise ValueError(f"table must be one of {names}, got {table!r}.")
        metric, rope = rows.loc[rows["table"] == table, ["metric", "rope"]].iloc[0]
        frame = self.frame[self.frame["table"] == table]
        ropes = {str(name): float(own) for name, own in frame.groupby("metric")["rope"].first().items()}
        ratio = float((frame["n_test"] / frame["n_train"]).mean())
        schemes: dict[str, dict[str, Any]] = {name: {} for name in self.schemes}
        return SchemeComparison(frame, schemes, metric, rope, ratio, n_networks=self.n_networks, ropes=ropes)

    def answers(self, task: str | None = None) -> list[SurveyAnswer]:
        """Answer those of `SURVEY_QUESTIONS` whose schemes were compared.

        Parameters
        ----------
        task : {"classification", "regression"} or None
            None is all tables.

        Returns
        -------
        list of SurveyAnswer
        """
        tables = self.tables()
        if task is not None and (not isinstance(task, str) or task not in set(tables["task"])):
            raise ValueError(f"task must be that of some table, one of {list(tables['task'].unique())}, got {task!r}.")
        names = tables.index if task is None else tables.index[tables["task"] == task]
        comparisons = [self.comparison(name) for name in names]
        found = []
        for question in asked_of(self.schemes):
            contrasts = [c.contrast(question.scheme, question.against) for c in comparisons]
            differences = pd.Series([c.mean for c in contrasts], index=names)
            words = [c.verdict for c in contrasts]
            counts = {word: words.count(word) for word in WORDS}
            found.append((question, differences, counts, signed_rank(differences.to_numpy(), rope=self.rope)))
        p_holm = holm([test.p_value for *_, test in found])
        return [SurveyAnswer(*answer, float(p)) for answer, p in zip(found, p_holm, strict=True)]

    def overall(self) -> list[SurveyAnswer]:
        """Return the answers to the two questions that the survey exists for; to all, where neither was asked.

        Is L2 on the weights redundant beside batch norm, and L2 on gamma and beta beside both?
        """
        answers = self.answers()
        by_schemes = {answer.question[2:]: answer for answer in answers}
        first = [by_schemes.get(pair) for pair in (("bn+l2", "bn"), ("bn+l2+gamma+beta", "bn+l2"))]
        return [answer for answer in first if answer] or answers

    def report(self, path: str | Path, **about: str) -> None:
        """Write the survey as one self-contained HTML page.

        Parameters
        ----------
        path : path
        **about : str
            What the page says of its origin, such as ``command="sk-bnreg survey tables"``.
        """
        from sk_bnreg.report.pages import write_survey

        write_survey(self, as_path(path, "path"), about)

    def ranking(self) -> Ranking:
        """Return the mean ranks of the schemes over the tables, with their tests."""
        return ranking(self.scores())

    def save(self, path: str | Path) -> None:
        """Write the survey as one parquet file.

        Parameters
        ----------
        path : path
        """
        # pandas writes attrs into the file's metadata; on a copy, as they belong to no frame of ours
        frame = self.frame.copy()
        frame.attrs = {"settings": self.settings, "skipped": self.skipped}
        write_whole(as_path(path, "path"), partial(frame.to_parquet, index=False))

    @classmethod
    def load(cls, path: str | Path) -> "Survey":
        """Read what `save` wrote."""
        file = as_path(path, "path")
        if not file.is_file():
            raise ValueError(f"path must be of a file that Survey.save wrote, got {str(path)!r}.")
        frame = undamaged(file, pd.read_parquet)
        about, frame.attrs = frame.attrs, {}  # pandas copies them at every step
        if not {"settings", "skipped"} <= set(about):
            raise ValueError(f"{str(path)!r} holds no survey: Survey.save writes one.")
        n_networks = int(frame["n_networks"].max()) if "n_networks" in frame else 1
        return cls(frame, about["settings"], about["skipped"], n_networks)

    @cached_property
    def _rows(self) -> pd.DataFrame:
        """Return the rows of `frame` that count: one score of each table, one number of networks."""
        rows = self.frame
        if "headline" not in rows:
            return rows
        return rows[(rows["metric"] == (self.metric or rows["headline"])) & (rows["n_networks"] == self.n_networks)]


def survey(
    folder: str | Path,
    out: str | Path,
    *,
    max_rows: int = 2000,
    n_folds: int = 5,
    n_repeats: int | str = 1,
    minutes: float = 3.0,
    n_seeds: int | str = 8,
    schemes: Sequence[str] | None = None,
    scoring: Sequence[str] | None = None,
    rope: float | None = None,
    n_candidates: int = 12,
    inner_cv: int = 3,
    random_state: int = 0,
    n_jobs: int | None = None,
    on_table: Callable[[str, str], None] | None = None,
) -> Survey:
    """Compare schemes on every table in a folder.

    Parameters
    ----------
    folder : path
        Its .csv and .parquet files; the target is the column "target", else the last.
    out : path
        A folder that receives one folder per table, as `compare_schemes` writes them, and
        ``survey.parquet``. A survey that was interrupted goes on from there.
    max_rows : int, default=2000
        Of larger tables so many rows are drawn at random.
    n_folds, n_repeats, minutes, n_seeds, n_candidates, inner_cv
        As in `compare_schemes`; `minutes` are those of a table. The folds are drawn once, for 8 networks of each
        scheme: tables differ by more than seeds do.
    schemes : sequence of str, default=None
        Names of built-in `SCHEMES`, at least 3, or of `survey_schemes`; None is all of the latter.
    scoring : sequence of str, default=None
        Scores, of which the first is the headline; None is accuracy and the D2 of the log loss for classes, R2 for
        numbers.
    rope : float, default=None
        Differences in any of the scores smaller than this do not matter. None is 0.01 for scores whose best value is 1.
    random_state : int, default=0
    n_jobs : int or None, default=None
        Tables in parallel, through joblib. With its Dask backend every table spreads its folds over the workers, and
        as many tables go on at a time as keep them busy.
    on_table : callable, default=None
        ``on_table(name, outcome)`` when a table is finished.

    Returns
    -------
    Survey

    Raises
    ------
    ValueError
        If no table could be used.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import survey
    >>> folder = Path(mkdtemp())
    >>> load_iris(as_frame=True).frame.to_csv(folder / "iris.csv", index=False)
    >>> schemes = ["plain", "bn", "bn+l2"]
    >>> survey(folder, folder / "out", schemes=schemes, max_rows=50, n_folds=2, n_candidates=1, inner_cv=2)
    Survey(1 table, 3 schemes)
    """
    check_arguments(_PARAMETERS, locals(), "survey")
    chosen_schemes(schemes, 1.0)
    paths = table_paths(folder)
    settings = {
        "cv": n_folds,
        "n_repeats": n_repeats,
        "minutes": minutes,
        "n_seeds": n_seeds,
        "schemes": None if schemes is None else list(schemes),
        "scoring": None if scoring is None else list(scoring),
        "rope": rope,
        "n_candidates": n_candidates,
        "inner_cv": inner_cv,
        "random_state": random_state,
    }
    found: dict[str, pd.DataFrame] = {}
    skipped: dict[str, str] = {}
    warned: Counter[str] = Counter()
    stems = Counter(path.stem for path in paths)
    names = [path.stem if stems[path.stem] == 1 else path.name for path in paths]
    jobs = [(path, Path(out) / name, max_rows, settings) for path, name in zip(paths, names, strict=True)]
    with alone_in(out):
        for name, frame, refusal, messages in _in_parallel(jobs, n_jobs, n_folds):
            warned.update(set(messages))
            if frame is None:
                skipped[name] = refusal
            else:
                found[name] = frame
            if on_table is not None:
                on_table(name, refusal or "finished")
        for message, n_tables in warned.items():
            warnings.warn(f"{message} (on {counted(n_tables, 'table')})", stacklevel=2)
        if not found:
            raise ValueError(f"No table in {str(folder)!r} could be used: {skipped or 'there is no file of a table'}.")
        # what a reader needs to judge the survey and cannot see in its rows
        about = settings | {
            "max_rows": max_rows,
            "budgets": BUDGETS,
            "network": {name: str(value) for name, value in BNMLPClassifier().get_params().items()},
        }
        # by name: tables end in any order
        frame = pd.concat([found[name] for name in sorted(found)], ignore_index=True)
        result = Survey(frame, about, skipped, int(frame["n_networks"].max()))
        # the folders of the tables have all of it; one file is easier to pass on
        result.save(Path(out) / "survey.parquet")
        return result


def table_paths(folder: str | Path) -> list[Path]:
    """Return the tables in a folder, by name."""
    # texts and settings that lie beside tables are of these formats too
    others = (None, ".txt", ".data", ".json")
    return sorted(path for path in Path(folder).iterdir() if table_format(path) not in others)


class _Outcome(NamedTuple):
    """What came of a table.

    Attributes
    ----------
    name : str
    frame : DataFrame or None
        The rows of its comparison.
    refusal : str
        Why it could not be made.
    warned : list of str
        What was warned of.
    """

    name: str
    frame: pd.DataFrame | None
    refusal: str
    warned: list[str]


def _in_parallel(jobs: Sequence[tuple[Any, ...]], n_jobs: int | None, n_folds: int) -> Iterator[_Outcome]:
    """Compare tables as they come."""
    client = getattr(get_active_backend()[0], "client", None)
    if client is None:
        # whole tables in processes, each with its folds one after another: none waits for the last fold of a table
        yield from joblib.Parallel(n_jobs=n_jobs, return_as=as_they_come())(
            joblib.delayed(_compare_table)(*job) for job in jobs
        )
        return
    # folds are done by the workers, files are written here: a thread per table waits for its folds
    n_tables = 1 + joblib.effective_n_jobs(n_jobs) // n_folds
    threads = ThreadPoolExecutor(n_tables)
    waiting = {threads.submit(_on_workers, client, job) for job in jobs}
    try:
        while waiting:
            done, waiting = wait(waiting, 0.5, FIRST_COMPLETED)  # without a limit Ctrl-C may not be heard
            for future in done:
                yield future.result()
    finally:
        # after Ctrl-C the threads end with the client, whose futures they wait for
        threads.shutdown(wait=False, cancel_futures=True)


def _on_workers(client: Any, job: tuple[Any, ...]) -> _Outcome:
    # the active backend is that of the thread
    with joblib.parallel_config("dask", client=client):
        return _compare_table(*job)


def _compare_table(path: Path, out: Path, max_rows: int, settings: dict[str, Any]) -> _Outcome:
    """Return the rows of one table's comparison, or why it could not be made."""
    with recorded() as warned:
        frame, failure = attempt(_rows_of, path, out, max_rows, settings)
    # one table that cannot be compared must not cost the others hours; the page names it and says why
    if failure is not None and not isinstance(failure.raised, ValueError):
        raise failure.raised
    return _Outcome(out.name, frame, "" if failure is None else str(failure.raised), [message for message, _ in warned])


def _rows_of(path: Path, out: Path, max_rows: int, settings: dict[str, Any]) -> pd.DataFrame:
    whole = read_table(str(path))
    table = whole.sample(max_rows, settings["random_state"])
    pipeline = network_pipeline(table.task)
    comparison = compare_schemes(
        pipeline,
        table.X,
        table.y,
        out=out,
        on_plan=None,
        **settings
        | {
            "schemes": chosen_schemes(settings["schemes"], pipeline[-1].learning_rate_init),
            "scoring": settings["scoring"] or list(DEFAULT_SCORES[table.task]),
        },
    )
    about: dict[str, Any] = {
        "table": out.name,
        "task": table.task,
        "headline": comparison.metric,
        "rope": comparison.frame["metric"].map(dict(comparison.ropes)),
        "n_rows": len(whole.X),
        "n_used": len(table.X),
        "n_features": table.X.shape[1],
    }
    return comparison.frame.assign(**about)
