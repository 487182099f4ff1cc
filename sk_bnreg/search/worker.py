"""Worker: takes trials of a study, trains a batch of them at a time and tells how they ended."""

import time
import warnings
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner, WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState
from sklearn.exceptions import FitFailedWarning

from sk_bnreg.borrowed import optimizing, storage_of, trial_id
from sk_bnreg.search.evaluation import attempt, evaluate, message_of
from sk_bnreg.search.space import suggest
from sk_bnreg.search.trials import TrialQueue

BATCH_SIZE = 8  # trials


def params_of(trial, space):
    """Return a trial's parameters as the space has them: a storage may have made lists of tuples.

    Parameters
    ----------
    trial : optuna.trial.FrozenTrial
    space : dict of str to optuna.distributions.BaseDistribution

    Returns
    -------
    dict
        For ``set_params``.
    """
    return {
        name: distribution.to_external_repr(trial.distributions[name].to_internal_repr(trial.params[name]))
        for name, distribution in space.items()
    }


class _Asked(NamedTuple):
    """A trial with its parameters and the steps that were reported already, by a worker that had it before and died."""

    trial: Trial
    params: dict
    steps: set


class Worker:
    """Takes trials from the study's queue, a batch at a time, until there are none.

    Parameters
    ----------
    search : StackedOptunaSearchCV
    folds : Folds
    scoring : Scoring
    study : optuna.Study
        On a storage that all workers reach.
    metric : str
        Name of the score to optimize, where there are several.
    seed : int
        Of the default sampler.
    """

    def __init__(self, search, folds, scoring, study, metric, seed):
        self.search, self.folds, self.scoring = search, folds, scoring
        self.study, self.metric, self.seed = study, metric, seed
        self.fronts = {}
        self.outputs = {}

    def run(self, number):
        """Work until there are enough trials, the time is over or a callback has stopped the study.

        Parameters
        ----------
        number : int
            This worker's, from 0 on: of a sampler that was given, all but the first take another seed.

        Returns
        -------
        dict of int to list of ndarray
            By number of a trial that went through all folds, what it predicted in each, if that is wanted.
        """
        search, study = self.search, self.study
        deadline = np.inf if search.timeout is None else time.monotonic() + float(search.timeout)
        if number and search.sampler is not None:
            study.sampler.reseed_rng()
        with optimizing(study) as stopped, TrialQueue(study, search.n_trials, search.heartbeat_interval) as queue:
            while time.monotonic() < deadline and not stopped():
                batch = list(self._ask(queue))
                if batch:
                    self._tell(queue, batch, self._outcomes(batch))
                elif queue.is_unfinished():
                    time.sleep(min(1.0, search.heartbeat_interval))
                else:
                    break
        return self.outputs

    def _ask(self, queue):
        """Yield a batch of trials with the values that the sampler suggests, or had suggested."""
        space = self.search.param_distributions
        if queue.shared:  # as a storage gives it back, with lists for tuples
            space = {name: json_to_distribution(distribution_to_json(value)) for name, value in space.items()}
        for frozen in queue.claim(self.search.batch_size or BATCH_SIZE):
            if self.search.sampler is None and self.seed is not None:
                # no two workers take the same first trial, so none has another's seed
                seed = np.random.SeedSequence([self.seed, frozen.number]).generate_state(1)[0]
                self.study.sampler, self.seed = TPESampler(seed=int(seed), constant_liar=True), None
            trial = Trial(self.study, trial_id(frozen))
            with suppress(UpdateFinishedTrialError):  # this worker slept, and another has finished it
                suggest(trial, space)
                # what the storage has is the trial's: a worker that held it before may have been quicker
                frozen = storage_of(self.study)[0].get_trial(trial_id(frozen))
                yield _Asked(trial, params_of(frozen, self.search.param_distributions), set(frozen.intermediate_values))

    def _outcomes(self, batch):
        """Train a batch.

        Returns
        -------
        list of (list of dict, int or None) or Exception
            For each trial its folds' results and the epoch at which it was pruned, or the error.
        """
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
        """Train trials on all folds at once, each until the pruner has heard enough of its losses.

        What is reported after an epoch is minus the loss on the test rows, mean over all folds of a trial.
        """
        n_splits = len(self.folds.splits)
        losses = np.full((len(batch), n_splits), np.nan)
        stopped = [None] * len(batch)

        def on_epoch_end(epoch, now):
            for place, loss in now.items():
                losses[place] = losses[place] if np.isnan(loss) else loss  # a fold that stopped early keeps its last
            pruned = []
            for candidate in dict.fromkeys(candidate for candidate, _ in now):
                mean = losses[candidate].mean()  # nan until every fold has been heard of
                if not np.isnan(mean) and self._report(batch[candidate], -mean, epoch):
                    stopped[candidate] = epoch + 1
                    pruned += [(candidate, split) for split in range(n_splits)]
            return pruned

        hook = None if isinstance(self.study.pruner, NopPruner) else on_epoch_end
        found = self._train(batch, range(n_splits), hook)
        return [([found[i, split] for split in range(n_splits)], epoch) for i, epoch in enumerate(stopped)]

    def _run_by_fold(self, batch):
        """Train trials on one fold after the other, each until the pruner has heard enough of its scores."""
        results, left = [[] for _ in batch], list(range(len(batch)))
        n_splits = len(self.folds.splits)
        for split in range(n_splits):
            found = self._train([batch[i] for i in left], [split])
            for place, i in enumerate(list(left)):
                results[i].append(found[place, split])
                scores = [self._objective(result["test_scores"]) for result in results[i]]
                # Wilcoxon's test pairs folds, the others compare levels
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
        """Return the score to optimize, of a failed fit what stands for it."""
        if scores is None:
            return self.search.error_score
        if isinstance(scores, dict) and self.metric not in scores:
            raise ValueError(f"refit must name the score to optimize, one of {list(scores)}, got {self.metric!r}.")
        return scores[self.metric] if isinstance(scores, dict) else scores

    def _tell(self, queue, batch, outcomes):
        """Tell the study how the trials of a batch ended; raise an error that is not among those to catch."""
        failure = None
        for asked, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                error = {"error": f"{type(outcome).__name__}: {outcome}"}
                ours = queue.finish(asked.trial, error, state=TrialState.FAIL)
                failure = failure if isinstance(outcome, self.search.catch) else outcome
            else:
                ours = self._tell_scores(queue, asked, *outcome)
            if not ours:  # another worker, which took it for lost, has told it or will
                continue
            trial = storage_of(self.study)[0].get_trial(trial_id(asked.trial))
            if self.search.verbose:
                print(f"[trial {trial.number}] {trial.state.name} {trial.value} {trial.params}")
            for callback in self.search.callbacks or ():
                callback(self.study, trial)
        if failure is not None:
            raise failure

    def _tell_scores(self, queue, asked, results, stopped_epoch):
        """Tell a trial's scores, as user attributes that any worker can make `cv_results_` of; was it ours to tell?"""
        attrs = {name: [float(result[name]) for result in results] for name in ("fit_time", "score_time", "n_iter")}
        failed = [result["fit_error"] for result in results if result["fit_error"]]
        if failed:
            reason = message_of(failed[0])
            warnings.warn(
                f"{len(failed)} of {len(results)} fits of trial {asked.trial.number} failed, and count as "
                f"{self.search.error_score}. {reason}",
                FitFailedWarning,
                stacklevel=2,
            )
            attrs["error"] = reason
        scored = next((result for result in results if not result["fit_error"]), None)
        # a trial that failed on every fold does not know the names of several scores; `cv_results_` has those of others
        several = self.metric != "score" if scored is None else isinstance(scored["test_scores"], dict)
        names = ["score"] if not several else [] if scored is None else list(scored["test_scores"])
        for part in ("test", "train") if self.search.return_train_score else ("test",):
            for split, result in enumerate(results):
                scores = result[f"{part}_scores"]
                for name in names:
                    value = scores[name] if isinstance(scores, dict) else scores
                    attrs[f"split{split}_{part}_{name}"] = float(self.search.error_score if value is None else value)
        score = float(np.mean([self._objective(result["test_scores"]) for result in results]))
        attrs[f"mean_test_{self.metric if several else 'score'}"] = score
        if stopped_epoch is not None:
            attrs["stopped_epoch"] = stopped_epoch
        # a pruned trial has scores too, but a sampler that learns from complete ones must not take them for its best
        pruned = stopped_epoch is not None or len(results) < len(self.folds.splits)
        if not pruned and all("outputs" in result for result in results):
            self.outputs[asked.trial.number] = [result["outputs"] for result in results]
        state = TrialState.PRUNED if pruned else TrialState.FAIL if np.isnan(score) else TrialState.COMPLETE
        return queue.finish(asked.trial, attrs, score if state == TrialState.COMPLETE else None, state)
