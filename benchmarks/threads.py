"""Fits and predictions beside one another: are they right, do they end, how many threads work, what is left behind?

Every setting runs in a process of its own, on Linux. The same is done one after another there first, so that all
threads that torch, numba and OpenMP ever start are there before a process forks. Columns:

right       whether outputs are those of one after another, to the bit
seconds     of one after another (alone) and of the setting (here), whose processes have imported all before, but for
            joblib's multiprocessing, which starts them for each call
CPU         seconds of all cores, and how many were at work on the average
threads     that worked or waited for a core, in all processes together: 95 % of looks saw no more
each        threads that torch may use in a worker process
kept        whether torch's and OpenMP's numbers of threads, filters of warnings, generators of random numbers,
            environment and so on are in the end as in the beginning, or which are not

    python benchmarks/threads.py
    python benchmarks/threads.py threads gunicorn  # these settings alone
"""

import asyncio
import functools
import gc
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread

import joblib
import numpy as np
import psutil
import sklearn
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFE, RFECV, SequentialFeatureSelector
from sklearn.inspection import permutation_importance
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_validate, learning_curve, validation_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from threadpoolctl import threadpool_info

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedGridSearchCV, load_model, save_model

JOBS = range(8)
LIMIT = 300  # seconds without a word, after which a setting counts as a deadlock
HERE = Path(__file__).parent
LOOK = 0.01  # seconds between looks at the threads


@functools.cache
def table():
    return make_classification(2000, 10, n_informative=6, n_classes=3, random_state=0)


@functools.cache
def model():
    return BNMLPClassifier(n_ensemble=4, max_iter=3, random_state=0).fit(*table())


def fitted(i):
    """Return what one of eight different estimators says after its fit."""
    X, y = table()
    grid = {"l2": [0.0, 1.0], "learning_rate_init": [0.003, 0.01]}
    estimator = [
        BNMLPClassifier(n_ensemble=2, max_iter=10, random_state=i),
        BNMLPClassifier((64,), early_stopping=True, n_ensemble=1, max_iter=20, random_state=i),
        BNMLPRegressor(n_ensemble=2, max_iter=10, random_state=i),
        BNMLPRegressor((32,), solver="sgd", dropout=0.2, dtype="float64", max_iter=10, random_state=i),
        make_pipeline(StandardScaler(), BNMLPClassifier((32, 32), n_ensemble=4, max_iter=10, random_state=i)),
        BNMLPClassifier((512, 512), batch_size=512, n_ensemble=1, max_iter=5, random_state=i),  # trained by a team
        StackedGridSearchCV(BNMLPClassifier((16,), n_ensemble=1, max_iter=10, random_state=i), grid, cv=3),
        StackedGridSearchCV(BNMLPRegressor((16,), n_ensemble=1, max_iter=10, random_state=i), grid, cv=3),
    ][i]
    estimator.fit(X, y)
    scores = estimator.cv_results_["mean_test_score"] if i > 5 else []
    return np.concatenate([np.ravel(outputs(estimator, X)), scores])


def predicted(i):
    """Return what one fitted network, the same in all threads, says of some rows."""
    return outputs(model(), np.repeat(table()[0], 5, axis=0) + i)


def saved(i):
    """Return what a fitted pipeline says that was written to a file and read."""
    X, y = table()
    pipeline = make_pipeline(StandardScaler(), BNMLPClassifier((8,), n_ensemble=1, max_iter=2, random_state=i))
    with TemporaryDirectory() as folder:
        save_model(pipeline.fit(X, y), Path(folder) / "model.safetensors")
        return outputs(load_model(Path(folder) / "model.safetensors"), X)


def theirs(i):
    """Return what a search of scikit-learn's over its own estimator finds."""
    X, y = table()
    grid = {"alpha": [0.1 * (i + 1), 1.0]}
    return GridSearchCV(RidgeClassifier(), grid, cv=3).fit(X, y).cv_results_["mean_test_score"]


def outputs(estimator, X):
    return estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else estimator.predict(X)


def in_worker(i):
    return fitted(i), torch.get_num_threads()


def ready(i):
    """Fit and wait, so that each worker has one of these, and has imported and compiled all."""
    BNMLPClassifier((8,), max_iter=1).fit(*table())
    time.sleep(0.5)
    return i, i


def states():
    """Return what a process has once for all of its threads."""
    with ThreadPoolExecutor(1) as pool:
        new_thread = pool.submit(torch.__config__.parallel_info).result()
    return {
        "threads": (torch.get_num_threads(), new_thread, [info["num_threads"] for info in threadpool_info()]),
        "warnings": (warnings.filters[:], warnings.showwarning),
        "generators": (str(np.random.get_state()), torch.get_rng_state().tolist(), random.getstate()),  # noqa: NPY002
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), float(torch.tensor(1e-40) * 1)),
        "environment": dict(os.environ),
        "others": (sklearn.get_config(), np.geterr(), gc.isenabled(), asyncio.get_event_loop_policy()),
    }


def compare(name, function, keys, together):
    """Tell the watching process of a setting; `together` returns what the function does, and threads of workers."""
    expected, seconds, cpu = one_after_another(function, tuple(keys))
    before = states()
    tell(begin=name)
    found, each = together()
    tell(end=name)
    after = states()
    tell(
        name=name,
        right=same_bits(found, expected),
        alone=seconds,
        alone_cpu=cpu,
        each=sorted(set(each)),
        changed=[key for key in before if before[key] != after[key]],
    )


def same_bits(found, expected):
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same_bits, found, expected))
    return np.array_equal(found, expected)


@functools.cache
def one_after_another(function, keys):
    for key in keys:  # the first time takes longer
        function(key)
    begun, cpu = time.perf_counter(), time.process_time()
    expected = [function(key) for key in keys]
    return expected, time.perf_counter() - begun, time.process_time() - cpu


def tell(**words):
    print(json.dumps(words), flush=True)


def threads():
    """Threads of a pool."""
    for function in (fitted, predicted, saved, theirs):
        with ThreadPoolExecutor(len(JOBS)) as pool:

            def together(pool=pool, function=function):
                return list(pool.map(function, JOBS)), []

            compare(f"eight threads, {function.__name__}", function, JOBS, together)


def event_loop():
    """An event loop's executor, and asyncio.to_thread."""

    async def in_executor():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, fitted, i) for i in JOBS))

    async def to_thread():
        return await asyncio.gather(*(asyncio.to_thread(fitted, i) for i in JOBS))

    for name, several in {"run_in_executor": in_executor, "asyncio.to_thread": to_thread}.items():
        compare(name, fitted, JOBS, lambda several=several: (asyncio.run(several()), []))


def joblib_backends():
    """joblib's backends."""
    method = os.environ.get("JOBLIB_START_METHOD")
    for name, n_jobs, options in BACKENDS[method]:

        def together(function=in_worker, name=name, n_jobs=n_jobs, options=options):
            with joblib.parallel_config(name, n_jobs=n_jobs, **options):
                told = joblib.Parallel()(joblib.delayed(function)(i) for i in JOBS)
            return zip(*told, strict=True)

        together(ready)
        options = [f"{key}={value}" for key, value in options.items()]
        named = ", ".join(filter(None, [f"joblib {name}", method, f"{n_jobs} jobs", *options]))
        compare(named, fitted, JOBS, together)


def pools():
    """Process pools."""
    fitted(0)  # a process that has fitted forks
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            list(pool.map(ready, range(2)))
            compare(
                f"ProcessPoolExecutor, {method}",
                fitted,
                JOBS,
                lambda pool=pool: zip(*pool.map(in_worker, JOBS), strict=True),
            )


def forked_meanwhile():
    """Processes that are forked while threads fit."""

    def together():
        found, each = {}, []
        with ThreadPoolExecutor(2) as fitting:
            busy = {i: fitting.submit(fitted, i) for i in (0, 6, 1, 7)}
            for i in (2, 3, 4, 5):
                time.sleep(0.1)
                with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                    found[i], n_threads = pool.submit(in_worker, i).result()
                each.append(n_threads)
            found |= {i: job.result() for i, job in busy.items()}
        return [found[i] for i in JOBS], each

    compare("forks while two threads fit", fitted, JOBS, together)


def gunicorn():
    """A web server that loads and fits before it forks."""
    for kind, options in {"sync": [], "gthread": ["--threads", "4"]}.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = ["gunicorn", "--preload", "-w", "2", "-k", kind, *options, "-b", address, "--timeout", "120"]
        server = subprocess.Popen([sys.executable, "-m", *command, "--log-level", "error", "threads:web()"], cwd=HERE)
        ask = functools.partial(asked, address)
        while True:
            try:
                ask("threads")
                break
            except OSError:
                time.sleep(0.5)
        try:
            paths = [f"{what}/{i}" for what in ("fitted", "predicted") for i in JOBS]
            with ThreadPoolExecutor(len(JOBS)) as pool:
                compare(
                    " ".join(["gunicorn", kind, *options]),
                    answer,
                    paths,
                    lambda pool=pool, ask=ask, paths=paths: (
                        list(pool.map(ask, paths)),
                        [int(ask("threads")) for _ in range(4)],
                    ),
                )
        finally:
            server.terminate()
            server.wait(60)


def web():
    """Return the application; it has fitted, as one that is loaded before the server forks."""
    fitted(0), predicted(0)

    def application(request, start):
        start("200 OK", [("Content-Type", "text/plain")])
        path = request["PATH_INFO"].strip("/")
        return [(str(torch.get_num_threads()) if path == "threads" else answer(path)).encode()]

    return application


def answer(path):
    what, i = path.split("/")
    return sha256({"fitted": fitted, "predicted": predicted}[what](int(i)).tobytes()).hexdigest()


def asked(address, path):
    with urllib.request.urlopen(f"http://{address}/{path}", timeout=LIMIT) as response:
        return response.read().decode()


def weights_of_features(network):
    return np.abs(network.coefs_[0]).sum(axis=1)


def meta_estimators():
    """scikit-learn's, with two jobs of its default backend beside one; those without jobs of their own twice."""
    X, y = make_classification(300, 6, n_informative=4, random_state=0)
    Y = make_multilabel_classification(300, 6, n_classes=3, random_state=0)[1]
    Z = make_regression(300, 6, n_targets=3, random_state=0)[1]
    net = BNMLPClassifier((16,), max_iter=5, n_ensemble=2, random_state=0)
    plain = clone(net).set_params(numeric_embedding=None)
    number = BNMLPRegressor((16,), max_iter=5, n_ensemble=2, random_state=0)
    nets = [("a", net), ("b", clone(net).set_params(random_state=1))]
    half = np.where(np.arange(300) % 2, y, -1)
    l2 = [0.0, 1.0]

    def importance(estimator, X, n_jobs):
        return permutation_importance(estimator, X, y, n_jobs=n_jobs, random_state=0).importances

    settings = {
        # its mean is of a sum per job, so that it rounds in other ways with two of them
        "BaggingClassifier": lambda n: [
            outputs(part, X) for part in BaggingClassifier(net, 4, n_jobs=n, random_state=0).fit(X, y).estimators_
        ],
        "StackingClassifier": lambda n: StackingClassifier(nets, n_jobs=n).fit(X, y),
        "VotingClassifier": lambda n: VotingClassifier(nets, voting="soft", n_jobs=n).fit(X, y),
        "CalibratedClassifierCV": lambda n: CalibratedClassifierCV(net, n_jobs=n).fit(X, y),
        "AdaBoostClassifier": lambda n: AdaBoostClassifier(net, n_estimators=3, random_state=0).fit(X, y),
        "OneVsRestClassifier": lambda n: OneVsRestClassifier(net, n_jobs=n).fit(X, Y),
        "MultiOutputClassifier": lambda n: MultiOutputClassifier(net, n_jobs=n).fit(X, Y),
        "MultiOutputRegressor": lambda n: MultiOutputRegressor(number, n_jobs=n).fit(X, Z),
        "SelfTrainingClassifier": lambda n: SelfTrainingClassifier(net, max_iter=3).fit(X, half),
        "RFE": lambda n: RFE(plain, importance_getter=weights_of_features).fit(X, y),
        "RFECV": lambda n: RFECV(plain, importance_getter=weights_of_features, cv=3, n_jobs=n).fit(X, y),
        "SequentialFeatureSelector": lambda n: SequentialFeatureSelector(
            net, n_features_to_select=2, cv=3, n_jobs=n
        ).fit(X, y),
        "GridSearchCV": lambda n: GridSearchCV(net, {"l2": l2}, cv=3, n_jobs=n).fit(X, y),
        "permutation_importance": lambda n: [importance(clone(net).fit(X, y), X, n)],
        "learning_curve": lambda n: learning_curve(net, X, y, cv=3, n_jobs=n),
        "validation_curve": lambda n: validation_curve(net, X, y, param_name="l2", param_range=l2, cv=3, n_jobs=n),
        "cross_validate": lambda n: [cross_validate(net, X, y, cv=3, n_jobs=n)["test_score"]],
    }
    joblib.Parallel(n_jobs=2)(joblib.delayed(ready)(i) for i in range(2))
    for name, run in settings.items():

        def told(n_jobs, run=run):
            result = run(n_jobs)
            if not hasattr(result, "fit"):
                return result
            return [np.asarray(outputs(result, X)) if hasattr(result, "predict") else result.transform(X)]

        compare(name, told, [None], lambda told=told: ([told(2)], []))


BACKENDS = {  # by the start method of joblib's multiprocessing, which it reads once
    None: (
        ("threading", len(JOBS), {}),
        ("loky", 2, {}),
        ("loky", 2, {"inner_max_num_threads": 1}),
        ("loky", 1, {"inner_max_num_threads": 2}),
        ("multiprocessing", 2, {}),
    ),
    "spawn": (("multiprocessing", 2, {}),),
}
SETTINGS = {
    "threads": threads,
    "event_loop": event_loop,
    "joblib": joblib_backends,
    "joblib_spawn": joblib_backends,
    "pools": pools,
    "forked_meanwhile": forked_meanwhile,
    "gunicorn": gunicorn,
    "meta_estimators": meta_estimators,
}


def watch(setting):
    """Run a setting in a process of its own, and print what it tells of and what is seen of it meanwhile."""
    # imported, as processes find functions of a module, not all of those of a script
    command = [sys.executable, "-c", f"import threads; threads.SETTINGS[{setting!r}]()"]
    spawned = {"JOBLIB_START_METHOD": "spawn"} if setting == "joblib_spawn" else {}
    environment = {**os.environ, **spawned}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, cwd=HERE, env=environment)
    tree, told, seen, last = psutil.Process(process.pid), SimpleQueue(), None, time.monotonic()
    Thread(target=lambda: [*map(told.put, process.stdout), told.put(None)], daemon=True).start()
    while True:
        try:
            line = told.get(timeout=LOOK)
        except Empty:
            if seen is not None:
                seen.append(n_at_work(tree))
            if time.monotonic() - last < LIMIT:
                continue
            print(f"{setting}: nothing for {LIMIT} s, a deadlock", flush=True)
            for victim in reversed(processes(tree)):
                victim.kill()
            break
        if line is None:
            break
        words, last = json.loads(line), time.monotonic()
        if "begin" in words:
            begun, cpu, seen = last, cpu_seconds(tree), []
        elif "end" in words:
            figures, seen = (last - begun, cpu_seconds(tree) - cpu, np.percentile(seen, 95)), None
        else:
            show(words, *figures)
    if process.wait():
        print(f"{setting}: ended with {process.returncode}", flush=True)


def show(words, seconds, cpu, n_threads):
    each, kept = ",".join(map(str, words["each"])) or "-", ", ".join(words["changed"]) or "yes"
    print(
        f"{words['name']:45} {'yes' if words['right'] else 'NO':5} {words['alone']:7.2f} {seconds:7.2f} "
        f"{words['alone_cpu']:7.2f} {cpu:7.2f} {cpu / seconds:8.2f} {n_threads:7.0f} {each:>4}  {kept}",
        flush=True,
    )


def processes(tree):
    return [tree, *tree.children(recursive=True)]


def cpu_seconds(tree):
    """Return the seconds of all processes, those that have ended too."""
    total = 0.0
    for process in processes(tree):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def n_at_work(tree):
    """Return how many threads of all processes work or wait for a core."""
    count = 0
    for process in processes(tree):
        for stat in Path(f"/proc/{process.pid}/task").glob("*/stat"):
            try:
                count += stat.read_text().rpartition(")")[2].split()[0] == "R"
            except OSError:
                continue  # it has ended
    return count


def main(*names):
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (torch, sklearn, joblib))
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {versions}")
    print(f"{'':51} {'seconds':>15} {'CPU seconds':>15} {'CPU /':>8}")
    print(f"{'setting':45} right   alone    here   alone    here     wall threads each  kept")
    for name in names or SETTINGS:
        watch(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
