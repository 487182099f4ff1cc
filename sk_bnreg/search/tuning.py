"""StackedOptunaSearchCV: an Optuna study that trains a batch of trials, on all folds, at once."""

import tempfile
import time
import warnings
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import joblib
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import Trial, TrialState
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.parallel import Parallel, delayed

from sk_bnreg.search.evaluation import attempt, candidate_of, evaluate
from sk_bnreg.search.grid import StackedSearch
from sk_bnreg.search.space import suggest
from sk_bnreg.search.trials import TrialQueue, open_storage

BATCH_SIZE = 8  # trials


class StackedOptunaSearchCV(StackedSearch):
    """Search with Optuna: any sampler and pruner, a batch of trials trained at once on all folds.

    The study is asked for a batch of trials, their networks are trained on all folds together,
    and the study is told their mean scores. With a pruner, a trial reports after every epoch
    minus its loss on the test rows, mean over folds, and trains no more when it is pruned (these
    rows decide nothing else: no best epoch is chosen on them), or after every fold. Splits are made once.
    Steps of a pipeline before the network are fitted once per fold and distinct setting.

    A fit starts a new study, unless `load_if_exists` tells it to go on with that of `storage` and
    `study_name`, on the same rows and folds. Then `n_trials` is the total of all fits: workers on
    many machines share one budget, and a fit that was killed goes on where it was.

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
    scoring, refit, cv, error_score, return_train_score
        As in `sklearn.model_selection.GridSearchCV`. With several scores the one that `refit`
        names is the objective. A trial whose score is nan has failed.
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
        task = context.subcontext(task_name="search").call_on_fit_task_begin(estimator=self)
        n_jobs = joblib.effective_n_jobs(self.n_jobs)
        in_memory = self.storage is None
        with tempfile.TemporaryDirectory() as folder:
            shared = in_memory and n_jobs > 1
            study = self._open_study(f"{folder}/study.journal" if shared else self.storage, folds)
            seed = check_random_state(self.random_state).randint(2**31)
            metric = self.refit if isinstance(self.refit, str) else refit_metric
            worker = _Worker(self, folds, scoring, study, metric, seed)
            with _ProgressBar(study, self.n_trials, self.show_progress_bar):
                if n_jobs == 1:
                    worker.run(0)
                else:
                    Parallel(n_jobs, pre_dispatch="all", batch_size=1)(delayed(worker.run)(i) for i in range(n_jobs))
            if shared:
                trials = study.get_trials()[: self.n_trials]
                study = self._open_study(None, folds)
                study.add_trials(trials)
        self.study_ = study
        task.call_on_fit_task_end(estimator=self)
        return self._results(study, folds)

    def _check_space(self):
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
            raise ValueError(f"param_distributions names {sorted(unknown)}, which are no parameters of the estimator.")

    def _open_study(self, storage, folds):
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
        if not isinstance(study._storage, InMemoryStorage):
            rows = joblib.hash([np.asarray(folds.X), np.asarray(folds.y), folds.splits])
            if study.user_attrs.get("rows_and_folds", rows) != rows:
                raise ValueError(
                    f"The storage has a study {study.study_name!r} of other rows or folds: give another study_name, or "
                    "the same X, y and cv as before."
                )
            study.set_user_attr("rows_and_folds", rows)
        return study

    def _results(self, study, folds):
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
            raise ValueError(f"No trial was completed, so there is no best one. {reason}")
        prefix = "split0_test_"
        metrics = [name.removeprefix(prefix) for name in trials[0].user_attrs if name.startswith(prefix)]
        multimetric = metrics != ["score"]
        out, candidates = [], []
        for trial in trials:
            attrs = trial.user_attrs
            candidates.append(_params(trial, self.param_distributions))
            n_scored = len(attrs["n_iter"])
            for split in range(n_splits):
                result = {name: attrs[name][min(split, n_scored - 1)] for name in ("fit_time", "score_time")}
                for part in ["test"] + ["train"] * self.return_train_score:
                    scores = {
                        metric: attrs[f"split{split}_{part}_{metric}"]
                        if split < n_scored
                        else np.mean([attrs[f"split{i}_{part}_{metric}"] for i in range(n_scored)])
                        for metric in metrics
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


def _params(trial, space):
    """Return a trial's parameters as the space has them: a storage may have made lists of tuples."""
    return {
        name: distribution.to_external_repr(trial.distributions[name].to_internal_repr(trial.params[name]))
        for name, distribution in space.items()
    }


class _Asked(NamedTuple):
    """A trial with its parameters and the steps that were reported already."""

    trial: Trial
    params: dict
    steps: set


class _Worker:
    """Takes trials from the study's queue, a batch at a time, until there are none."""

    def __init__(self, search, folds, scoring, study, metric, seed):
        self.search, self.folds, self.scoring = search, folds, scoring
        self.study, self.metric, self.seed = study, metric, seed
        self.fronts = {}
        self.deadline = np.inf if search.timeout is None else time.time() + search.timeout

    def run(self, number):
        search, study = self.search, self.study
        if number and search.sampler is not None:
            study.sampler.reseed_rng()
        study._thread_local.in_optimize_loop = True  # lets callbacks call study.stop()
        study._stop_flag = False
        with TrialQueue(study, search.n_trials, search.heartbeat_interval) as queue:
            while time.time() < self.deadline and not study._stop_flag:
                batch = list(self._ask(queue))
                if batch:
                    self._tell(queue, batch, self._outcomes(batch))
                elif queue.is_unfinished():
                    time.sleep(min(1.0, search.heartbeat_interval))
                else:
                    break
        study._thread_local.in_optimize_loop = False

    def _ask(self, queue):
        space = self.search.param_distributions
        if queue.shared:  # as a storage gives it back, with lists for tuples
            space = {name: json_to_distribution(distribution_to_json(value)) for name, value in space.items()}
        for frozen in queue.claim(self.search.batch_size or BATCH_SIZE):
            if self.search.sampler is None and self.seed is not None:
                # no two workers take the same first trial, so none has another's seed
                seed = np.random.SeedSequence([self.seed, frozen.number]).generate_state(1)[0]
                self.study.sampler, self.seed = TPESampler(seed=int(seed), constant_liar=True), None
            trial = Trial(self.study, frozen._trial_id)
            with suppress(UpdateFinishedTrialError):  # this worker slept, and another has finished it
                suggest(trial, space)
                # what the storage has is the trial's: a worker that held it before may have been quicker
                frozen = self.study._storage.get_trial(frozen._trial_id)
                yield _Asked(trial, _params(frozen, self.search.param_distributions), set(frozen.intermediate_values))

    def _outcomes(self, batch):
        """Return for each trial its folds' results and the epoch at which it was pruned, or the error."""
        pruner = self.study.pruner
        by_fold = self.search.report == "fold" and not isinstance(pruner, NopPruner)
        run = self._run_by_fold if by_fold or isinstance(pruner, WilcoxonPruner) else self._run_by_epoch
        outcomes, failure = attempt(run, batch)
        if failure is None:
            return outcomes
        if len(batch) == 1:
            return [failure.raised]
        return [self._outcomes([asked])[0] for asked in batch]  # to find whose error it was

    def _train(self, batch, splits, on_epoch_end=None):
        """Return the results of trials on some folds, by place."""
        return evaluate(
            self.search.estimator,
            [asked.params for asked in batch],
            self.folds,
            self.scoring,
            [(candidate, split) for candidate in range(len(batch)) for split in splits],
            here=True,
            fronts=self.fronts,
            on_epoch_end=on_epoch_end,
        )

    def _run_by_epoch(self, batch):
        n_splits = len(self.folds.splits)
        losses = np.full((len(batch), n_splits), np.nan)
        stopped = [None] * len(batch)

        def on_epoch_end(epoch, now):
            for place, loss in now.items():
                losses[place] = losses[place] if np.isnan(loss) else loss  # a fold that stopped early keeps its last
            pruned = []
            for candidate in dict.fromkeys(candidate for candidate, _ in now):
                mean = losses[candidate].mean()
                if not np.isnan(mean) and self._report(batch[candidate], -mean, epoch):
                    stopped[candidate] = epoch + 1
                    pruned += [(candidate, split) for split in range(n_splits)]
            return pruned

        hook = None if isinstance(self.study.pruner, NopPruner) else on_epoch_end
        found = self._train(batch, range(n_splits), hook)
        return [([found[i, split] for split in range(n_splits)], epoch) for i, epoch in enumerate(stopped)]

    def _run_by_fold(self, batch):
        results, left = [[] for _ in batch], list(range(len(batch)))
        n_splits = len(self.folds.splits)
        for split in range(n_splits):
            found = self._train([batch[i] for i in left], [split])
            for place, i in enumerate(list(left)):
                results[i].append(found[place, split])
                scores = [self._objective(result["test_scores"]) for result in results[i]]
                told = scores[-1] if isinstance(self.study.pruner, WilcoxonPruner) else float(np.mean(scores))
                if split + 1 < n_splits and self._report(batch[i], told, split):
                    left.remove(i)
        return [(result, None) for result in results]

    def _report(self, asked, value, step):
        """Report a value, unless a worker that died had; tell whether to prune, or another worker has finished it."""
        if step in asked.steps:
            return False  # pruners judge the last step
        with suppress(UpdateFinishedTrialError):
            asked.trial.report(value, step)
            asked.steps.add(step)
            return asked.trial.should_prune()
        return True

    def _objective(self, scores):
        if scores is None:
            return self.search.error_score
        if isinstance(scores, dict) and self.metric not in scores:
            raise ValueError(f"refit must name the score to optimize, one of {list(scores)}, got {self.metric!r}.")
        return scores[self.metric] if isinstance(scores, dict) else scores

    def _tell(self, queue, batch, outcomes):
        failure = None
        for asked, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                error = {"error": f"{type(outcome).__name__}: {outcome}"}
                ours = queue.finish(asked.trial, error, state=TrialState.FAIL)
                failure = failure if isinstance(outcome, self.search.catch) else outcome
            else:
                ours = self._tell_scores(queue, asked, *outcome)
            if not ours:
                continue
            trial = self.study._storage.get_trial(asked.trial._trial_id)
            if self.search.verbose:
                print(f"[trial {trial.number}] {trial.state.name} {trial.value} {trial.params}")
            for callback in self.search.callbacks or ():
                callback(self.study, trial)
        if failure is not None:
            raise failure

    def _tell_scores(self, queue, asked, results, stopped_epoch):
        attrs = {name: [float(result[name]) for result in results] for name in ("fit_time", "score_time", "n_iter")}
        failed = [result["fit_error"] for result in results if result["fit_error"]]
        if failed:
            reason = _message(failed[0])
            warnings.warn(
                f"{len(failed)} of {len(results)} fits of trial {asked.trial.number} failed, and count as "
                f"{self.search.error_score}. {reason}",
                FitFailedWarning,
                stacklevel=2,
            )
            attrs["error"] = reason
        scored = next((result for result in results if not result["fit_error"]), None)
        for part in ["test"] + ["train"] * self.search.return_train_score:
            metrics = {} if scored is None else scored[f"{part}_scores"]
            names = metrics if isinstance(metrics, dict) and metrics else [self.metric]
            for split, result in enumerate(results):
                scores = result[f"{part}_scores"]
                for name in names:
                    value = scores[name] if isinstance(scores, dict) else scores
                    attrs[f"split{split}_{part}_{name}"] = float(self.search.error_score if value is None else value)
        score = float(np.mean([self._objective(result["test_scores"]) for result in results]))
        attrs[f"mean_test_{self.metric}"] = score
        if stopped_epoch is not None:
            attrs["stopped_epoch"] = stopped_epoch
        pruned = stopped_epoch is not None or len(results) < len(self.folds.splits)
        state = TrialState.PRUNED if pruned else TrialState.FAIL if np.isnan(score) else TrialState.COMPLETE
        return queue.finish(asked.trial, attrs, score if state == TrialState.COMPLETE else None, state)


def _message(traceback):
    """Return the error of a traceback: what follows the lines of its last frame."""
    lines = traceback.strip().splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    start = next(i for i, line in enumerate(lines) if i > last_frame and not line.startswith(" "))
    return "\n".join(lines[start:])


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
