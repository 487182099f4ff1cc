"""StackedOptunaSearchCV: an Optuna study that trains a batch of trials, on all folds, at once."""

import tempfile
from collections import ChainMap
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from threading import Event, Thread

import joblib
import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from sklearn.base import is_classifier
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from sk_bnreg.borrowed import BaseSearchCV, Interval, StrOptions, storage_of
from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.estimators.preparation import OF_ALL_MEMBERS
from sk_bnreg.search.ensemble import greedy_selection
from sk_bnreg.search.evaluation import candidate_of, evaluate
from sk_bnreg.search.grid import StackedSearch
from sk_bnreg.search.predictions import after_mean, before_mean, classes_of, outputs_of, predicted
from sk_bnreg.search.trials import open_storage
from sk_bnreg.search.worker import Worker, params_of


class StackedOptunaSearchCV(StackedSearch):
    """Search with Optuna: any sampler and pruner, a batch of trials trained at once on all folds.

    The study is asked for a batch of trials, their networks are trained on all folds together,
    and the study is told their mean scores. With a pruner, a trial reports after every epoch
    minus its loss on the test rows, mean over folds, and trains no more when it is pruned (these
    rows decide nothing else: no best epoch is chosen on them), or after every fold. Splits are made once.
    Steps of a pipeline before the network are fitted once per fold and distinct setting.

    A fit starts a new study, unless `load_if_exists` tells it to go on with that of `storage` and
    `study_name`, on the same rows and folds. Then `n_trials` is the total of all fits: workers on
    many machines share them, and a fit that was killed goes on where it was.

    Parameters
    ----------
    estimator : estimator
        A BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that
        ends in one.
    param_distributions : dict of str to optuna.distributions.BaseDistribution
        The search space; `search_space` makes one.
    n_trials : int or None, default=64
        Trials of the study, pruned ones included; None for no limit but `timeout`.
    timeout : float or None, default=None
        Seconds after which no further batch is begun.
    scoring, cv, error_score, return_train_score
        As in `sklearn.model_selection.GridSearchCV`. A trial whose score is nan has failed.
    refit : bool, str or callable, default=True
        As in `sklearn.model_selection.GridSearchCV`; with several scores the one that it names is the objective.
        "ensemble" fits, in place of the best trial, up to 16 networks with the parameters of the trials (some several
        times) whose mean predictions for the test rows score best, chosen greedily (Caruana et al. 2004): an estimator
        with `members`. Scores of probabilities choose better ones than accuracy. Trials of other workers or an earlier
        fit are trained once more for it.
    n_jobs : int or None, default=None
        Worker processes, each with batches of its own, through joblib. Which trial knows of which
        others then depends on time. Workers on other machines need a `storage` that they reach.
    verbose : int, default=0
        1 prints the trials as they end.
    sampler : optuna.samplers.BaseSampler or None, default=None
        None is TPE, which takes trials of the same batch for bad ones (constant liar), so that
        it does not suggest the same again.
    pruner : optuna.pruners.BasePruner or None, default=None
        None prunes nothing.
    report : {"epoch", "fold"}, default="epoch"
        What the pruner is told. "epoch": after every epoch minus the loss on the test rows, mean
        over folds. "fold": the mean score of the folds so far, which train one after the other.
        With a falling learning rate early losses tell little of the end, and folds are the
        better choice. `WilcoxonPruner` always gets the score of each fold.
    storage : str, Path, optuna.storages.BaseStorage or None, default=None
        A database's URL (``postgresql+psycopg2://...``, ``sqlite:///...``), a journal file's path, or a
        storage of Optuna's. None is in memory.
    study_name : str or None, default=None
        None makes a name.
    load_if_exists : bool, default=False
        Whether to go on with the study of that name, if there is one.
    batch_size : int or None, default=None
        Trials that are asked for at once; None is 8.
    heartbeat_interval : float, default=10.0
        Seconds between a worker's signs of life on a storage that is not in memory. After
        three without one its trials are given to others.
    callbacks : list of callable or None, default=None
        ``callback(study, trial)`` after every trial, as in `optuna.Study.optimize`; it may call
        ``study.stop()``.
    catch : tuple of exception types, default=()
        Errors that only fail their trial, with ``error_score="raise"`` too.
    show_progress_bar : bool, default=False
        Whether to show the study's finished trials and its best value.
    random_state : int, RandomState instance or None, default=None
        Seed of the default sampler.

    Attributes
    ----------
    study_ : optuna.Study
    ensemble_ : list of int
        With ``refit="ensemble"`` the trial that each network of `best_estimator_` is of. `best_params_` and
        `best_score_` stay those of the best single trial.
    ensemble_score_ : float
        The mean score of their mean predictions on the test rows of the folds: of those on which they were chosen, so
        a little too good.
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, \
refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As in `sklearn.model_selection.GridSearchCV`, over the finished trials of the study.
        `cv_results_` also has `trial_number`, `n_epochs` (sum over folds), `n_splits_scored` and
        `stopped_epoch` (nan for a trial that was not pruned by its losses). A pruned trial keeps
        the scores of its networks as they were, and ranks behind all that finished.

    See Also
    --------
    search_space : What of a network is worth tuning.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, StackedOptunaSearchCV, search_space
    >>> X, y = load_iris(return_X_y=True)
    >>> network = BNMLPClassifier((16,), random_state=0)
    >>> search = StackedOptunaSearchCV(network, search_space(network), n_trials=4, random_state=0).fit(X, y)
    >>> len(search.study_.trials), len(search.cv_results_["params"])
    (4, 4)
    """

    _parameter_constraints = {
        **BaseSearchCV._parameter_constraints,
        "param_distributions": [dict],
        "n_trials": [None, Interval(Integral, 1, None, closed="left")],
        "timeout": [None, Interval(Real, 0, None, closed="neither")],
        "sampler": [None, BaseSampler],
        "pruner": [None, BasePruner],
        "report": [StrOptions({"epoch", "fold"})],
        "storage": [None, str, Path, BaseStorage],
        "study_name": [None, str],
        "load_if_exists": ["boolean"],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
        "heartbeat_interval": [Interval(Real, 0, None, closed="neither")],
        "callbacks": [None, list, tuple],
        "catch": [tuple],
        "show_progress_bar": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator,
        param_distributions,
        *,
        n_trials=64,
        timeout=None,
        scoring=None,
        n_jobs=None,
        refit=True,
        cv=None,
        verbose=0,
        sampler=None,
        pruner=None,
        report="epoch",
        storage=None,
        study_name=None,
        load_if_exists=False,
        batch_size=None,
        heartbeat_interval=10.0,
        callbacks=None,
        catch=(),
        show_progress_bar=False,
        random_state=None,
        error_score=np.nan,
        return_train_score=False,
    ):
        super().__init__(
            estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.param_distributions = param_distributions
        self.n_trials = n_trials
        self.timeout = timeout
        self.sampler = sampler
        self.pruner = pruner
        self.report = report
        self.storage = storage
        self.study_name = study_name
        self.load_if_exists = load_if_exists
        self.batch_size = batch_size
        self.heartbeat_interval = heartbeat_interval
        self.callbacks = callbacks
        self.catch = catch
        self.show_progress_bar = show_progress_bar
        self.random_state = random_state

    def _evaluate(self, folds, scoring, refit_metric, context):
        """Run the study; return `cv_results_` of its finished trials and the names of their scores."""
        self._check_space()
        ensemble = self.refit == "ensemble"
        if ensemble:
            self._member_params(self.param_distributions)
            classes = classes_of(folds.y, is_classifier(self.estimator))
            scoring = replace(scoring, predict=partial(outputs_of, classes=classes))
        task = context.subcontext(task_name="search").call_on_fit_task_begin(estimator=self)
        n_jobs = joblib.effective_n_jobs(self.n_jobs)
        in_memory = self.storage is None
        with tempfile.TemporaryDirectory() as folder:
            # processes have no memory in common: for them a study "in memory" is a journal that ends with the fit
            shared = in_memory and n_jobs > 1
            study = self._open_study(f"{folder}/study.journal" if shared else self.storage, folds)
            seed = check_random_state(self.random_state).randint(2**31)
            named = (
                callable(self.scoring) and isinstance(self.refit, str) and not ensemble
            )  # if it gives several scores
            metric = self.refit if named else refit_metric
            worker = Worker(self, folds, scoring, study, metric, seed)
            with _ProgressBar(study, self.n_trials, self.show_progress_bar):
                if n_jobs == 1:
                    outputs = worker.run(0)
                else:
                    parallel = Parallel(n_jobs, pre_dispatch="all", batch_size=1)
                    outputs = dict(ChainMap(*parallel(delayed(worker.run)(i) for i in range(n_jobs))))
            # workers that end at the same moment may have added more trials than asked for
            if shared:
                trials = study.get_trials()[: self.n_trials]
                study = self._open_study(None, folds)
                study.add_trials(trials)
        self.study_ = study
        results = self._results(study, folds)
        if ensemble:
            self._select(study, folds, scoring, outputs, classes)
        task.call_on_fit_task_end(estimator=self)
        return results

    def _check_space(self):
        """Refuse a search that would never end, or that would tune what there is not."""
        if self.n_trials is None and self.timeout is None:
            raise ValueError("n_trials or timeout must be given, got None for both.")
        if not self.param_distributions or not all(
            isinstance(distribution, BaseDistribution) for distribution in self.param_distributions.values()
        ):
            raise ValueError(
                "param_distributions must have Optuna distributions as values, such as search_space(estimator), got "
                f"{self.param_distributions!r}."
            )
        unknown = set(self.param_distributions) - set(self.estimator.get_params())
        if unknown:
            raise ValueError(f"param_distributions names {list(unknown)}, which are no parameters of the estimator.")
        if not all(map(callable, self.callbacks or ())):
            raise TypeError(f"callbacks must be functions of a study and a trial, got {self.callbacks!r}.")
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.catch):
            raise TypeError(f"catch must be a tuple of types of exceptions, got {self.catch!r}.")

    def _member_params(self, params):
        """Return parameters of the estimator as those of the network at its end, by its own names."""
        network, path = network_in(self.estimator)
        own = {name.removeprefix(f"{path}__") if path else name: value for name, value in params.items()}
        shared = set(own) - set(network.get_params(deep=False)) if network else set(params)
        shared |= set(own) & OF_ALL_MEMBERS
        if shared:
            raise ValueError(
                "refit='ensemble' fits networks to the same data: param_distributions must name parameters of a "
                f"network at the end of the estimator, in which networks can differ, not {sorted(shared)}."
            )
        return own

    def _select(self, study, folds, scoring, outputs, classes):
        """Choose the networks of the ensemble among the trials that went through all folds."""
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        trials.sort(key=lambda trial: -trial.value)
        lacking = [trial for trial in trials if trial.number not in outputs]
        params = [params_of(trial, self.param_distributions) for trial in lacking]
        found = evaluate(self.estimator, params, folds, scoring, n_jobs=self.n_jobs)
        for i, trial in enumerate(lacking):
            own = [found[i, split] for split in range(len(folds.splits))]
            if not any(result["fit_error"] for result in own):
                outputs[trial.number] = [result["outputs"] for result in own]
        trials = [trial for trial in trials if trial.number in outputs]
        tests = [folds.scored(test) for _, test in folds.splits]
        classifier, flat = is_classifier(self.estimator), np.ndim(folds.y) == 1

        def score(fold, mean):
            X, y_test, params = tests[fold]
            outputs = after_mean(mean, classes, classifier)
            return scoring.scorer(predicted(outputs, classes, classifier, flat), X, y_test, **params)

        by_fold = [
            before_mean(np.stack(fold), classes, classifier)
            for fold in zip(*(outputs[trial.number] for trial in trials), strict=True)
        ]
        chosen, self.ensemble_score_ = greedy_selection(by_fold, score)
        self.ensemble_ = [trials[i].number for i in chosen]

    def _winner(self):
        if self.refit != "ensemble":
            return super()._winner()
        trials = {trial.number: trial for trial in self.study_.get_trials(deepcopy=False)}
        members = [
            self._member_params(params_of(trials[number], self.param_distributions)) for number in self.ensemble_
        ]
        _, path = network_in(self.estimator)
        return candidate_of(self.estimator, {f"{path}__members" if path else "members": members})

    def _open_study(self, storage, folds):
        """Return the study, a new one or that of the storage, which must be of the same rows and folds."""
        study = optuna.create_study(
            storage=open_storage(storage),
            study_name=self.study_name,
            load_if_exists=self.load_if_exists,
            direction="maximize",
            sampler=self.sampler,
            pruner=NopPruner() if self.pruner is None else self.pruner,
        )
        if study.direction.name != "MAXIMIZE":
            raise ValueError(f"The study {study.study_name!r} must maximize its score, as scikit-learn does.")
        # scores of other rows would be told to the sampler as if they were comparable, and nobody would notice
        if not isinstance(storage_of(study)[0], InMemoryStorage):
            rows = joblib.hash([np.asarray(folds.X), np.asarray(folds.y), folds.splits])
            if study.user_attrs.get("rows_and_folds", rows) != rows:
                raise ValueError(
                    f"The storage has a study {study.study_name!r} of other rows or folds: give another study_name, or "
                    "the same X, y and cv as before."
                )
            study.set_user_attr("rows_and_folds", rows)
        return study

    def _results(self, study, folds):
        """Make `cv_results_` of what trials keep as user attributes, whichever worker told it.

        Returns
        -------
        results : dict
        first_scores : dict or float
            A dict by score where there are several.
        """
        n_splits = len(folds.splits)
        trials = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.state.is_finished() and "n_iter" in trial.user_attrs
        ]
        if not any(trial.state == TrialState.COMPLETE for trial in trials):
            failed = [trial for trial in study.trials if "error" in trial.user_attrs]
            if failed:  # let the estimator say what is wrong
                candidate = candidate_of(self.estimator, failed[0].params)
                candidate.fit(folds.X, folds.y, **folds.fit_params)
            reason = failed[0].user_attrs["error"] if failed else "Give it more time, or prune less."
            if not failed and any(trial.state == TrialState.FAIL for trial in trials):
                reason = (
                    f"Every score was nan by scoring={self.scoring!r}, of which a warning may say why; one such as "
                    "neg_log_loss needs every class in every fold's test rows."
                )
            raise ValueError(f"No trial was completed, so there is no best one. {reason}")
        prefix = "split0_test_"
        told = {name: None for trial in trials for name in trial.user_attrs if name.startswith(prefix)}
        metrics = [name.removeprefix(prefix) for name in told] or [self.refit]
        multimetric = metrics != ["score"]
        out, candidates = [], []
        for trial in trials:
            attrs = trial.user_attrs
            candidates.append(params_of(trial, self.param_distributions))
            n_scored = len(attrs["n_iter"])
            for split in range(n_splits):
                result = {name: attrs[name][min(split, n_scored - 1)] for name in ("fit_time", "score_time")}
                for part in ("test", "train") if self.return_train_score else ("test",):
                    of_folds = {
                        metric: [attrs.get(f"split{i}_{part}_{metric}", self.error_score) for i in range(n_scored)]
                        for metric in metrics
                    }
                    scores = {
                        metric: of_fold[split] if split < n_scored else np.mean(of_fold)
                        for metric, of_fold in of_folds.items()
                    }
                    result[f"{part}_scores"] = scores if multimetric else scores["score"]
                out.append(result)
        more = {
            "trial_number": [trial.number for trial in trials],
            "n_epochs": [int(sum(trial.user_attrs["n_iter"])) for trial in trials],
            "stopped_epoch": [trial.user_attrs.get("stopped_epoch", np.nan) for trial in trials],
            "n_splits_scored": [len(trial.user_attrs["n_iter"]) for trial in trials],
        }
        first_scores = dict.fromkeys(metrics) if multimetric else 0.0
        return self._format_results(candidates, n_splits, out, more), first_scores


class _ProgressBar:
    """Shows, inside, how many trials of a study are finished, whoever finishes them."""

    def __init__(self, study, n_trials, shown):
        self.study, self.n_trials, self.shown, self.left = study, n_trials, shown, Event()

    def __enter__(self):
        if self.shown:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.n_trials, unit="trial")
            self.thread = Thread(target=self._follow, daemon=True)
            self.thread.start()

    def __exit__(self, *error):
        if self.shown:
            self.left.set()
            self.thread.join()
            self._update()
            self.bar.close()

    def _follow(self):
        while not self.left.wait(0.5):
            self._update()

    def _update(self):
        finished = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]
        values = [trial.value for trial in finished if trial.state == TrialState.COMPLETE]
        if values:
            self.bar.set_postfix_str(f"best {max(values):.4f}", refresh=False)
        self.bar.update(len(finished) - self.bar.n)
