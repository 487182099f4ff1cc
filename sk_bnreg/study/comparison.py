"""SchemeComparison: what the scores of regularisation schemes on the same folds say."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sk_bnreg.estimators.checks import is_number
from sk_bnreg.stats.folds import Contrast, contrast, holm
from sk_bnreg.stats.looks import MOST_REPEATS, outlook, seed_deviation
from sk_bnreg.study import tried
from sk_bnreg.study.held_out import HeldOut, as_path, default_rope, scored, stored_comparison
from sk_bnreg.study.plan import Course, StudyPlan
from sk_bnreg.study.schemes import QUESTIONS, Question


@dataclass(frozen=True)
class Answer:
    """What the contrast of two schemes says of a question.

    Attributes
    ----------
    question : Question
    contrast : Contrast
        Of the scores of the question's two schemes.
    p_holm : float
        The contrast's p-value, adjusted by Holm's method for all questions asked together.
    outlook : str
        What keeps the question from a strong word, and what it would take; "" where it has one.
    """

    question: Question
    contrast: Contrast
    p_holm: float
    outlook: str = ""

    def summary(self) -> str:
        """Return the answer as a clause with its figures."""
        c, (subject, given, *_) = self.contrast, self.question
        return f"{subject} {c.verb} given {given}{c.hint} {c.figures}"


@dataclass(frozen=True, eq=False, repr=False)
class SchemeComparison:
    """What schemes scored on the same folds, and what follows from it.

    Made by `compare_schemes`, or from a search or a study that has been run already.

    Attributes
    ----------
    frame : DataFrame
        A row per scheme, repeat, fold and seed with its score; from `compare_schemes` also
        the tuned learning rate, l2, decay budget and dropout, rows, seconds. With columns `metric`
        and `n_networks` it may hold several scores, and those of single networks beside those of means.
    schemes : dict
        The schemes by name.
    metric : str
        Name of the score; greater is better.
    rope : float
        Differences smaller than this do not matter.
    test_ratio : float
        n_test / n_train of a fold.
    n_networks : int
        Networks of which each score is of the mean prediction.
    ropes : dict of str to float
        Of each metric in `frame`, and of others that were asked for.
    held_out : HeldOut or None
        What the networks predicted, for `rescore`.
    course : Course or None
        How the study went: looks, seeds, and why it ended.
    tuning : DataFrame or None
        A row per scheme, repeat, fold and candidate: its settings and mean inner score.
    best_estimator_ : estimator or None
        The scheme with the best mean score, tuned and fitted on all rows.
    plan : StudyPlan or None
    caveat : str
        What the way in which the schemes were tuned does to their scores.
    study : optuna.Study or None
        The one that `from_study` read, for the report.
    diagnosis : Diagnosis or None
        What L2 did in `best_estimator_`.
    """

    frame: pd.DataFrame
    schemes: Mapping[str, Mapping[str, Any]]
    metric: str
    rope: float
    test_ratio: float
    n_networks: int = 1
    ropes: Mapping[str, float] = field(default_factory=dict)
    held_out: HeldOut | None = None
    course: Course | None = None
    tuning: pd.DataFrame | None = None
    best_estimator_: Any = None
    plan: StudyPlan | None = None
    caveat: str = ""
    study: Any = None
    diagnosis: Any = None

    def __post_init__(self) -> None:
        for name, value in (("rope", self.rope), ("test_ratio", self.test_ratio)):
            if not is_number(value) or not 0 < value < np.inf:
                raise ValueError(f"{name} must be greater than 0, got {value!r}.")
        if not isinstance(self.metric, str) or not isinstance(self.n_networks, Integral):
            raise TypeError(f"metric must be a name, n_networks a number, got {self.metric!r}, {self.n_networks!r}.")
        if not isinstance(self.frame, pd.DataFrame) or not {"scheme", "repeat", "fold", "score"} <= set(self.frame):
            raise ValueError("frame must be a DataFrame with columns 'scheme', 'repeat', 'fold' and 'score'.")
        if not isinstance(self.schemes, Mapping) or not all(isinstance(name, str) for name in self.schemes):
            raise ValueError(f"schemes must be a mapping with names, got {self.schemes!r}.")

    def __repr__(self) -> str:
        return f"SchemeComparison({', '.join(self.schemes)}: {self.metric} on {self.n_folds} folds)"

    @classmethod
    def from_cv_results(
        cls, search: Any, *, rope: float | None = None, test_ratio: float | None = None
    ) -> "SchemeComparison":
        """Compare the schemes that a fitted search went through.

        Candidates are gathered by `batch_norm`, `l2_targets` and `l2_mode`, whatever else they
        varied; a candidate with ``l2=0`` belongs to the scheme without L2, one without a
        network of ours to none. A scheme's scores are those of its best candidate.

        Parameters
        ----------
        search : fitted GridSearchCV or RandomizedSearchCV, stacked or scikit-learn's
        rope : float, default=None
            Differences smaller than this do not matter. None is 0.01 for scores whose best
            value is 1; any other score asks for it.
        test_ratio : float, default=None
            n_test / n_train of a fold; None is 1 / (k - 1) if the search had k folds.

        Returns
        -------
        SchemeComparison
            Its `caveat` says what such a selection biases.

        Raises
        ------
        ValueError
            If fewer than two schemes were tried.
        NotFittedError

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from sk_bnreg import BNMLPClassifier, SchemeComparison, StackedGridSearchCV
        >>> model = make_pipeline(StandardScaler(), BNMLPClassifier((16,), max_iter=10, random_state=0))
        >>> grid = {"bnmlpclassifier__batch_norm": [True, False], "bnmlpclassifier__l2": [0.0, 1.0]}
        >>> search = StackedGridSearchCV(model, grid).fit(*load_wine(return_X_y=True))
        >>> sorted(SchemeComparison.from_cv_results(search).schemes)
        ['bn', 'bn+l2', 'l2', 'plain']
        """
        candidates, scoring, metric = tried.candidates_of_search(search)
        frame, schemes, caveat = tried.best_of_schemes(candidates)
        return cls(
            frame,
            schemes,
            metric,
            default_rope(scoring) if rope is None else rope,
            tried.test_ratio_of(search) if test_ratio is None else test_ratio,
            best_estimator_=getattr(search, "best_estimator_", None),
            caveat=caveat,
        )

    @classmethod
    def from_skore(cls, report: Any, *, metric: str | None = None, rope: float | None = None) -> "SchemeComparison":
        """Compare the schemes of a report of skore's, which has their scores side by side, but no test.

        Parameters
        ----------
        report : skore.ComparisonReport
            Of cross-validation reports over the same folds.
        metric : str, default=None
            A method of the reports' ``metrics``; of losses and errors the negative is compared. None is "accuracy" or
            "r2".
        rope : float, default=None
            As in `from_cv_results`; a loss or an error asks for it.

        Returns
        -------
        SchemeComparison

        Raises
        ------
        ValueError
            If the reports have no such score, or not the same folds, or fewer than two schemes.
        """
        candidates, metric, test_ratio = tried.candidates_of_skore(report, metric)
        if rope is None and metric.startswith("negative"):
            raise ValueError(f"rope must be given for {metric}: its unit is yours.")
        frame, schemes, caveat = tried.best_of_schemes(candidates)
        return cls(frame, schemes, metric, default_rope(metric) if rope is None else rope, test_ratio, caveat=caveat)

    @classmethod
    def from_study(
        cls,
        study: Any,
        *,
        estimator: Any,
        rope: float,
        test_ratio: float | None = None,
        metric: str = "score",
        best_estimator: Any = None,
    ) -> "SchemeComparison":
        """Compare the schemes that an Optuna study went through.

        Like `from_cv_results`; the fold scores are read from each complete trial's user
        attributes ``split0_test_score``, ``split1_test_score`` and so on, as `OptunaSearchCV`
        sets them and an objective can: ``trial.set_user_attr("split0_test_score", score)``.

        Parameters
        ----------
        study : optuna.Study
        estimator : estimator
            The one that was tuned, for the parameters that the study did not vary.
        rope : float
            Differences smaller than this do not matter.
        test_ratio : float, default=None
            n_test / n_train of a fold; None is 1 / (k - 1) if trials have k scores.
        metric : str, default="score"
            Name of the score. Where the study minimised it, its negative is compared.
        best_estimator : estimator, default=None
            The best one, fitted on all rows, for the report.

        Returns
        -------
        SchemeComparison

        Raises
        ------
        ValueError
            If trials have no fold scores, or fewer than two schemes were tried.
        """
        candidates, n_folds = tried.candidates_of_study(study, estimator)
        frame, schemes, caveat = tried.best_of_schemes(candidates)
        return cls(
            frame,
            schemes,
            f"negative {metric}" if study.direction.name == "MINIMIZE" else metric,
            rope,
            1 / (n_folds - 1) if test_ratio is None else test_ratio,
            best_estimator_=best_estimator,
            caveat=caveat,
            study=study,
        )

    @property
    def n_folds(self) -> int:
        """Folds over all repeats."""
        return len(self._scores)

    @property
    def n_fits(self) -> int:
        """Networks trained for the scores (0 where that is not known)."""
        if "elapsed" not in self.frame:
            return 0
        # a fold that got more seeds has rows of each time
        return int(self.frame.drop_duplicates(["repeat", "fold", "elapsed"])["n_fits"].sum())

    @property
    def best_scheme(self) -> str:
        """Name of the scheme with the best mean score."""
        return str(self._scores.mean().idxmax())

    def table(self) -> pd.DataFrame:
        """Return a row per scheme: its score, the difference to the best scheme, and median settings.

        The difference comes with its corrected 95 % interval and a p-value adjusted by Holm's
        method over the schemes. As the best scheme is chosen by the same scores, both are a
        little hard on the others.
        """
        scores, best = self._scores, self.best_scheme
        against = {name: self.contrast(name, best) for name in self.schemes}
        others = [name for name in self.schemes if name != best]
        p_holm = dict(zip(others, holm([against[name].p_value for name in others]), strict=True))
        rows = pd.DataFrame(
            {
                "score": scores.mean(),
                "difference": {name: c.mean for name, c in against.items()},
                "low": {name: c.low for name, c in against.items()},
                "high": {name: c.high for name, c in against.items()},
                "p_holm": {name: p_holm.get(name, np.nan) for name in self.schemes},
            }
        )
        # medians of settings: a fold's learning rate is one of few values, a mean would be none of them
        tuned = [name for name in ("learning_rate_init", "budget", "l2", "dropout") if name in self.frame]
        medians = self._rows().groupby("scheme")[tuned].median()
        return rows.join(medians).loc[list(self.schemes)].rename_axis("scheme")

    def questions(self) -> list[Question]:
        """Return the questions whose schemes were compared; else the best scheme against each other."""
        asked = [question for question in QUESTIONS if {question.scheme, question.against} <= set(self.schemes)]
        best = self.best_scheme
        # schemes of a user's own answer no question that was asked beforehand
        return asked or [Question(f"scheme {best!r}", f"{name!r}", best, name) for name in self.schemes if name != best]

    def verdicts(self) -> list[Answer]:
        """Return an answer to each of the questions."""
        asked = self.questions()
        contrasts = [self.contrast(question.scheme, question.against) for question in asked]
        p_holm = holm([c.p_value for c in contrasts])
        outlooks = [self._outlook(c, q) for c, q in zip(contrasts, asked, strict=True)]
        return [Answer(*found) for found in zip(asked, contrasts, map(float, p_holm), outlooks, strict=True)]

    def contrast(self, scheme: str, against: str) -> Contrast:
        """Return what the folds say of the difference between two schemes.

        Examples
        --------
        >>> import pandas as pd
        >>> from sk_bnreg import SchemeComparison
        >>> scores = {"old": [0.70, 0.72, 0.71, 0.73, 0.70], "new": [0.80, 0.81, 0.82, 0.81, 0.80]}
        >>> frame = pd.DataFrame(
        ...     [
        ...         {"scheme": name, "repeat": 0, "fold": fold, "score": score}
        ...         for name, values in scores.items()
        ...         for fold, score in enumerate(values)
        ...     ]
        ... )
        >>> comparison = SchemeComparison(frame, {"old": {}, "new": {}}, "accuracy", 0.01, 0.25)
        >>> comparison.contrast("new", "old").verdict
        'helps'
        """
        return self._judge(self.differences(scheme, against))

    @property
    def has_interaction(self) -> bool:
        """Whether the four schemes are there that an `interaction` needs."""
        return {"plain", "l2", "bn", "bn+l2"} <= set(self.schemes)

    def interaction(self) -> Contrast:
        """Return the contrast (bn+l2 - bn) - (l2 - plain): does L2 do more, or less, beside batch norm?"""
        if not self.has_interaction:
            raise ValueError(
                f"The interaction needs the schemes 'plain', 'l2', 'bn' and 'bn+l2'; there are {list(self.schemes)}."
            )
        return self._judge(self.differences("bn+l2", "bn") - self.differences("l2", "plain"))

    def sentence(self) -> str:
        """Return the verdicts as one sentence."""
        answers = "; ".join(answer.summary() for answer in self.verdicts())
        of = "" if self.n_networks == 1 else f"For the mean of {self.n_networks} networks, on this table "
        return f"{of or 'On this table '}{answers}; differences in {self.metric} within {self.rope:g} count as none."

    @property
    def single(self) -> "SchemeComparison":
        """The comparison of single networks, where this one is of means of several."""
        return replace(self, n_networks=1)

    @property
    def metrics(self) -> list[str]:
        """Names of the scores in `frame`; `rescore` switches to one of them, or to another."""
        return list(self.frame["metric"].unique()) if "metric" in self.frame else [self.metric]

    def rescore(self, scoring: Any, *, rope: float | None = None) -> "SchemeComparison":
        """Compare the schemes by another score of the same predictions, without training.

        Parameters
        ----------
        scoring : str or scorer
            As in `compare_schemes`.
        rope : float, default=None
            Differences smaller than this do not matter. None is 0.01 for scores whose best
            value is 1; any other score asks for it.

        Returns
        -------
        SchemeComparison
            Its schemes were tuned as this one's.

        Raises
        ------
        ValueError
            If the comparison holds no predictions.

        Examples
        --------
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sk_bnreg import BNMLPClassifier, compare_schemes
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> net = BNMLPClassifier((8,), max_iter=5, n_ensemble=1)
        >>> study = compare_schemes(net, X / X.max(0), y, schemes=["bn", "bn+l2"], cv=2, n_repeats=1, n_candidates=2,
        ...                         inner_cv=2, random_state=0, on_plan=None)
        >>> study.rescore("roc_auc").metric
        'roc_auc'
        """
        if scoring is None and self.held_out is not None:
            scoring = "accuracy" if self.held_out.classifier else "r2"
        metric = str(scoring)
        rope = self.ropes.get(metric) if rope is None else rope
        rope = default_rope(scoring) if rope is None else rope
        if metric in self.metrics and isinstance(scoring, str):  # two functions may have one name
            return replace(self, metric=metric, rope=rope)
        if self.held_out is None or not self.held_out.folds:
            raise ValueError(f"The predictions are not there to score by {metric!r}: compare_schemes keeps them.")
        networks = self.frame[(self.frame["metric"] == self.metric) & (self.frame["n_networks"] == 1)]
        frame = scored(networks, self.held_out, {metric: self.held_out.checked_scorer(scoring)}, self.n_networks)
        return replace(self, frame=frame, metric=metric, rope=rope, ropes={**self.ropes, metric: rope})

    @classmethod
    def load(cls, folder: str | Path) -> "SchemeComparison":
        """Read what `compare_schemes` wrote into its folder `out`, but for the best estimator.

        Parameters
        ----------
        folder : path

        Returns
        -------
        SchemeComparison

        Raises
        ------
        ValueError
            If there is no finished study.
        """
        folder = as_path(folder, "folder")
        if not (folder / "results.parquet").exists():
            raise ValueError(f"{str(folder)!r} holds no finished comparison: results.parquet is not there.")
        return cls(**stored_comparison(folder))

    def seed_deviation(self, scheme: str, against: str) -> float:
        """Return the part of the standard deviation of folds that is due to seeds; nan where there is one.

        Of means of several networks it is told from single ones.
        """
        self._check_names(scheme, against)
        scores = self.single._rows().pivot_table(index=["repeat", "fold"], columns=["scheme", "seed"], values="score")
        return seed_deviation((scores[scheme] - scores[against]).to_numpy())

    def seed_share(self) -> float:
        """Return the greatest share of seeds in the variance of an answer's mean difference; nan with one seed."""
        shares = []
        for question in self.questions():
            schemes = question.scheme, question.against
            sd = self.contrast(*schemes).sd
            shares.append(self.seed_deviation(*schemes) ** 2 / sd**2 if sd else np.nan)
        return float(np.nanmin([1, np.nanmax(shares)])) if not np.isnan(shares).all() else float("nan")

    def differences(self, scheme: str, against: str) -> pd.Series:
        """Return the difference of two schemes on each repeat and fold, means over seeds."""
        self._check_names(scheme, against)
        return self._scores[scheme] - self._scores[against]

    def report(self, path: str | Path, **about: str) -> None:
        """Write the comparison as one self-contained HTML page.

        Parameters
        ----------
        path : path
        **about : str
            What the page says of its origin, such as ``table="customers.csv"``.
        """
        from sk_bnreg.report.pages import write_report

        write_report(self, as_path(path, "path"), about)

    def _check_names(self, *names: Any) -> None:
        for name in names:
            if not isinstance(name, str) or name not in self.schemes:
                raise ValueError(f"scheme and against must be among {list(self.schemes)}, got {name!r}.")

    def _rows(self) -> pd.DataFrame:
        """Return the rows of `frame` for this metric and number of networks."""
        rows = self.frame
        for name, value in (("metric", self.metric), ("n_networks", self.n_networks)):
            if name in rows:
                rows = rows[rows[name] == value]
        return rows

    def _outlook(self, contrast: Contrast, question: Question) -> str:
        if "n_test" not in self.frame or not contrast.sd:
            return ""
        rows = self._rows()
        n_folds = MOST_REPEATS * rows["fold"].nunique()
        n_rows = int((rows["n_train"] + rows["n_test"]).iloc[0])
        of_seeds = self.seed_deviation(question.scheme, question.against)
        return outlook(contrast, n_folds, n_rows, 0.0 if np.isnan(of_seeds) else min(of_seeds, contrast.sd))

    @cached_property
    def _scores(self) -> pd.DataFrame:
        means = self._rows().groupby(["repeat", "fold", "scheme"])["score"].mean()
        scores = means.unstack("scheme").reindex(columns=list(self.schemes))
        if scores.empty or not np.isfinite(scores).all(axis=None):
            raise ValueError(
                f"frame must have a score of every scheme on every fold, by {self.metric!r} and for n_networks="
                f"{self.n_networks!r}; schemes are {list(self.schemes)}."
            )
        return scores

    def _judge(self, differences: pd.Series) -> Contrast:
        return contrast(differences.to_numpy(), test_ratio=self.test_ratio, rope=float(self.rope))
