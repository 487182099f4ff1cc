"""fit_stack against the same estimators fitted one at a time."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_regression
from sklearn.exceptions import FitFailedWarning
from skorch.callbacks import Callback, EpochTimer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedGridSearchCV, fit_stack
from sk_bnreg.engine.compiled import DIVISIBLE
from sk_bnreg.engine.rows import feature_quantiles
from sk_bnreg.engine.workers import Workers, threads_left_to_workers


def twelve_different_classifiers(**shared):
    """Members that differ in everything that members of one stack may differ in."""
    modes = ["decoupled", "loss"]
    targets = ["weights", "weights+gamma+beta", "all", "none", ("output_weights", "gamma")]
    schedules = ["constant", "cosine", "one-cycle"]
    return [
        BNMLPClassifier(
            hidden_layer_sizes=(12, 8),
            batch_size=32,
            dtype="float64",
            random_state=i,
            learning_rate=schedules[i % 3],
            learning_rate_init=0.002 * (i + 1),
            l2=0.03 * i,
            l2_targets=targets[i % 5],
            l2_mode=modes[i % 2],
            dropout=[0.0, 0.2, 0.5][i // 4],
            max_iter=8 + i,
            early_stopping=i % 4 != 3,
            n_iter_no_change=1 + i % 3,
            n_ensemble=1,
            **shared,
        )
        for i in range(12)
    ]


@pytest.fixture
def classes():
    return make_classification(n_samples=300, n_features=10, n_informative=6, n_classes=3, random_state=0)


@pytest.fixture
def unequal_rows():
    rng = np.random.default_rng(0)
    return [rng.permutation(300)[: 230 - i % 7] for i in range(12)]


def largest_difference(one, other, X):
    pairs = [(one.predict_proba(X), other.predict_proba(X))]
    for name in ("coefs_", "intercepts_", "gammas_", "betas_"):
        pairs += zip(getattr(one, name), getattr(other, name), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


@pytest.fixture
def threads(monkeypatch):
    """Return a function that sets how many threads torch, and so the engine, may use, whatever cores there are."""
    monkeypatch.setattr("sk_bnreg.engine.workers.cpu_count", lambda: 8)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_torch_stack_equals_single_fits(classes, unequal_rows, solver, batch_norm, monkeypatch):
    """To rounding, as one torch program; tests/test_laws.py has what the kernel trains, to the bit."""
    monkeypatch.setattr("sk_bnreg.engine.tasks.has_kernel", lambda: False)
    X, y = classes
    stacked = fit_stack(twelve_different_classifiers(solver=solver, batch_norm=batch_norm), X, y, rows=unequal_rows)
    alone = twelve_different_classifiers(solver=solver, batch_norm=batch_norm)
    for single, rows in zip(alone, unequal_rows, strict=True):
        single.fit(X[rows], y[rows])
    assert [net.n_iter_ for net in stacked] == [net.n_iter_ for net in alone]
    assert len({net.n_iter_ for net in alone}) > 3
    assert max(largest_difference(a, b, X) for a, b in zip(stacked, alone, strict=True)) <= 1e-9
    for a, b in zip(stacked, alone, strict=True):
        np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-9)
        np.testing.assert_allclose([row[3] for row in a.l2_report_], [row[3] for row in b.l2_report_], rtol=1e-12)


def forty_of_other_structures(dtype):
    """Networks of 40 different structures, some with embeddings, some ensembles, some SGD."""
    return [
        BNMLPClassifier(
            [(3 + i,), (5, 1 + i), (40, 9, 4), ()][i % 4],
            ["relu", "tanh", "gelu", "identity"][i // 4 % 4],
            batch_norm=i % 3 > 0,
            batch_size=20 + i,
            dropout=0.1 * (i % 2),
            solver=["adam", "sgd"][i // 5 % 2],
            numeric_embedding=["auto", None][i % 2],
            n_ensemble=1 + i % 2,
            max_iter=3 + i % 4,
            random_state=i,
            dtype=dtype,
        )
        for i in range(40)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_company_order_and_threads_change_no_bit(classes, unequal_rows, dtype, threads):
    X, y = classes
    alone = twelve_different_classifiers()
    for net in alone:
        net.set_params(dtype=dtype)
    crowd = forty_of_other_structures(dtype)
    rows = unequal_rows + [np.arange(i, 300) for i in range(40)]
    order = np.random.default_rng(1).permutation(52)
    for n_threads in (1, 2, 4):
        threads(n_threads)
        nets = [clone(net) for net in alone + crowd]
        fit_stack([nets[i] for i in order], X, y, rows=[rows[i] for i in order])
        if n_threads == 1:
            first = nets
        for net, other in zip(nets, first, strict=True):
            assert torch.equal(net.net_.module_.theta, other.net_.module_.theta)
            np.testing.assert_array_equal(net.predict_proba(X), other.predict_proba(X))
    for net, other, own in zip(first, alone, rows, strict=False):
        other.fit(X[own], y[own])
        assert torch.equal(net.net_.module_.theta, other.net_.module_.theta)


def test_a_team_of_threads_trains_a_wide_network_to_the_same_bits(threads):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((700, 12))
    y = X[:, :2] + rng.standard_normal((700, 2))
    nets = {}
    for n_threads in (1, 2, 3, 4):
        threads(n_threads)
        net = BNMLPRegressor((260, 300), batch_size=300, max_iter=2, n_ensemble=1, dropout=0.1, random_state=0)
        nets[n_threads] = net.fit(X, y)
        assert net.net_.module_.theta.numel() * 300 > DIVISIBLE
        assert torch.equal(net.net_.module_.theta, nets[1].net_.module_.theta)
        assert torch.equal(net.net_.module_.running_var, nets[1].net_.module_.running_var)


def test_no_more_threads_than_a_container_or_batch_job_gives_cores(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # joblib reads affinities and quotas of containers too
    with Workers() as workers:
        assert (workers.n_threads, len(workers.rooms)) == (1, 1)


def numbers_of_threads():
    """Return how many threads torch and its MKL may use in a thread that has not asked before."""
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(torch.__config__.parallel_info).result()
    return re.findall(r"(\w+)\(\) : (\d+)", told)


def test_fits_of_eight_threads_overlap_and_change_nothing_outside(classes, threads):
    """Each has the bits that it has alone; threads and tiny numbers are afterwards as they were."""
    X, y = classes
    threads(2)
    alone = [BNMLPClassifier(max_iter=10, n_ensemble=2, random_state=i).fit(X, y) for i in range(7)]
    alone.append(StackedGridSearchCV(alone[0], {"l2": [0.0, 1.0]}, cv=3).fit(X, y))
    n_threads = numbers_of_threads()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda net: clone(net).fit(X, y), alone))
    for net, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(net.predict_proba(X), other.predict_proba(X))
    assert numbers_of_threads() == n_threads
    assert float(torch.tensor(1e-40) * 1) > 0


def test_threads_are_as_they_were_after_contexts_of_two_threads_that_overlap(threads):
    """The second begins within the first and ends after it: there `torch.set_num_threads` leaves the process one.

    It has half of the threads, as the two are there together.
    """
    threads(4)
    before, found = numbers_of_threads(), {}
    second_begun, first_over = Event(), Event()

    def second():
        with threads_left_to_workers(), Workers() as workers:
            found["second"] = torch.get_num_threads(), workers.n_threads
            second_begun.set()
            first_over.wait(10)

    with ThreadPoolExecutor(1) as pool:
        with threads_left_to_workers(), Workers() as workers:
            other = pool.submit(second)
            second_begun.wait(10)
            found["first"] = torch.get_num_threads(), workers.n_threads
            found["meanwhile"] = numbers_of_threads()
        first_over.set()
        other.result(10)
    assert found == {"first": (1, 4), "second": (1, 2), "meanwhile": before}
    with Workers() as workers:
        assert workers.n_threads == 4
    assert (torch.get_num_threads(), numbers_of_threads()) == (4, before)


FORK = """
import os, sys
import numpy as np
from sklearn.datasets import make_classification
from sk_bnreg import BNMLPClassifier
X, y = make_classification(20_000, 20, random_state=0)
net = BNMLPClassifier(max_iter=1, n_ensemble=2, random_state=0).fit(X, y)
probability = net.predict_proba(X)
child = os.fork()
if not child:
    same = [np.array_equal(probability, other.predict_proba(X)) for other in (net, net.fit(X, y))]
    os._exit(0 if all(same) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_child_of_a_process_that_fitted_and_predicted_fits_and_predicts_the_same():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    assert subprocess.run([sys.executable, "-c", FORK], env=environment, timeout=200).returncode == 0


INTERRUPTED = """
import time
import numpy as np
from threading import active_count
from sk_bnreg import BNMLPClassifier
rng = np.random.default_rng(0)
X = rng.standard_normal((20_000, 30))
net = BNMLPClassifier(n_ensemble=4, max_iter=1).fit(X[:100], X[:100, 0] > 0)
print("ready", flush=True)
try:
    net.set_params(max_iter=10_000).fit(X, X[:, 0] > 0)
except KeyboardInterrupt:
    print(active_count(), hasattr(net, "net_"), time.time())
"""


@pytest.mark.skipif(os.name == "nt", reason="a signal to one process alone")
def test_ctrl_c_ends_every_thread_within_a_second():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "ready\n"
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    sent = time.time()
    n_threads, fitted, ended = process.communicate(timeout=60)[0].split()
    assert (n_threads, fitted) == ("1", "False")
    assert float(ended) - sent < 1


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None  # as if it were not installed
import warnings
import numpy as np
from sklearn.datasets import load_iris
from sk_bnreg import BNMLPClassifier
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for seed in range(2):
        net = BNMLPClassifier((8,), dtype="float64", max_iter=5, random_state=0).fit(*load_iris(return_X_y=True))
assert ["torch" in str(warning.message) for warning in told] == [True], [str(warning.message) for warning in told]
print(*net.predict_proba(load_iris().data[::50]).ravel())
"""


def test_without_numba_torch_trains_and_says_so_once():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True)
    X, y = load_iris(return_X_y=True)
    net = BNMLPClassifier((8,), dtype="float64", max_iter=5, random_state=0).fit(X, y)
    np.testing.assert_allclose(np.array(done.stdout.split(), float), net.predict_proba(X[::50]).ravel(), atol=1e-8)


def test_quantiles_of_features_are_those_of_the_rows_that_count():
    """Of repeated rows as of weights, of any size; of many rows as of all; of sparse tables as of dense ones."""
    rng = np.random.default_rng(0)
    X = rng.lognormal(size=(900, 4)) * (rng.random((900, 4)) < 0.7)
    counts, index = rng.integers(1, 4, 600), rng.permutation(900)[:600]
    levels = np.linspace(0, 1, 33)
    found = feature_quantiles(torch.from_numpy(X), index, counts * 1e307, [3, 1], 33)
    expected = np.quantile(X[np.repeat(index, counts)][:, [3, 1]], levels, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, feature_quantiles(sparse.csr_array(X), index, counts, [3, 1], 33))
    many = torch.from_numpy(np.sort(rng.normal(size=(200_000, 1)), axis=0))
    of_some = feature_quantiles(many, np.arange(200_000), None, [0], 33)
    assert abs(of_some - np.quantile(many.numpy(), levels, axis=0))[1:-1].max() < 1e-3


def test_rounded_sums_of_weights_decide_no_quantile():
    """Of 32 rows each is a quantile's share: sums of thirds reach it or not by their rounding."""
    counts, values = np.tile([1, 2, 3, 2], 4), torch.arange(16.0)[:, None]
    expected = np.quantile(np.repeat(values, counts), np.linspace(0, 1, 33), method="inverted_cdf")
    for factor in (1, 0.1, 1 / 7):
        found = feature_quantiles(values, np.arange(16), counts * factor, [0], 33)
        np.testing.assert_array_equal(found[:, 0], expected)


@pytest.mark.parametrize("estimator", [BNMLPClassifier, BNMLPRegressor])
def test_piecewise_linear_embeddings_fit_steps(estimator):
    """Where the target is a step function of one feature lines between quantiles are nearer than the feature itself."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(600, 1))
    y = (np.floor(4 * X[:, 0]) % 2).astype(int)
    options = {"max_iter": 100, "n_ensemble": 2, "random_state": 0}
    lines, plain = (
        estimator(numeric_embedding=form, **options).fit(X[:400], y[:400]).score(X[400:], y[400:])
        for form in ("piecewise-linear", None)
    )
    assert lines > plain + 0.05
    assert lines > 0.6


def test_going_on_with_other_embeddings_is_refused():
    X, y = load_iris(return_X_y=True)
    net = BNMLPClassifier(max_iter=2, warm_start=True, numeric_embedding="periodic").fit(X, y)
    with pytest.raises(ValueError, match="go on with the network as it is"):
        net.set_params(numeric_embedding="piecewise-linear").fit(X, y)


def test_tables_weights_and_targets_of_its_own_for_each_member():
    X, y = make_regression(n_samples=120, n_features=6, n_targets=2, noise=5.0, random_state=0)
    weight = np.random.default_rng(0).uniform(0, 2, size=120)
    weight[::5] = 0
    tables, targets = [X, X * 2 + 1, X], [y, y, -3 * y]
    nets = [
        BNMLPRegressor((9,), max_iter=15, n_ensemble=k, random_state=k, dtype="float64", batch_size=16)
        for k in (1, 2, 3)
    ]
    stacked = fit_stack([clone(net) for net in nets], tables, targets, sample_weight=[weight, None, weight])
    for net, other, X_i, y_i, w in zip(stacked, nets, tables, targets, [weight, None, weight], strict=True):
        np.testing.assert_allclose(net.predict(X_i), other.fit(X_i, y_i, sample_weight=w).predict(X_i), atol=1e-9)
        assert len(net.net_.members) == net.n_ensemble


def test_training_goes_on_from_a_stack_as_from_a_single_fit(classes):
    X, y = classes
    nets = twelve_different_classifiers()[:4]
    alone = [clone(net).fit(X, y) for net in nets]
    fit_stack(nets, X, y)
    for net, single in zip(nets, alone, strict=True):
        for estimator in (net, single):
            estimator.set_params(early_stopping="auto")
            for _ in range(3):
                estimator.partial_fit(X, y)
        assert largest_difference(net, single, X) < 1e-9


def test_monitor_rows_never_touch_the_weights(classes):
    X, y = classes
    rows, monitor = np.arange(200), np.arange(200, 300)
    seen = []
    nets = fit_stack(
        twelve_different_classifiers(),
        X,
        y,
        rows=[rows] * 12,
        monitor_rows=[monitor] * 12,
        on_epoch_end=lambda epoch, scores: seen.append(scores.copy()),
    )
    spoiled_X, spoiled_y = X.copy(), y.copy()
    spoiled_X[monitor], spoiled_y[monitor] = 1e3, (y[monitor] + 1) % 3
    spoiled = fit_stack(twelve_different_classifiers(), spoiled_X, spoiled_y, rows=[rows] * 12)
    assert max(largest_difference(a, b, X) for a, b in zip(nets, spoiled, strict=True)) == 0
    # the last score of a member without early stopping is that of the fitted net
    last = [scores[3] for scores in seen if np.isfinite(scores[3])][-1]
    probability = nets[3].predict_proba(X[monitor])[np.arange(100), y[monitor]]
    assert last == pytest.approx(np.log(probability).mean(), abs=1e-9)


def test_on_epoch_end_stops_the_members_it_names(classes):
    X, y = classes
    nets = [BNMLPClassifier((8,), max_iter=10, random_state=i) for i in range(4)]
    fit_stack(nets, X, y, on_epoch_end=lambda epoch, scores: np.array([1, 2]) if epoch == 4 else None)
    assert [net.n_iter_ for net in nets] == [10, 5, 5, 10]


def test_rows_may_be_masks_and_are_checked(classes):
    X, y = classes
    mask = np.arange(300) % 3 > 0
    one, other = (BNMLPClassifier((8,), max_iter=2, random_state=0, dtype="float64") for _ in range(2))
    fit_stack([one, other], X, y, rows=[mask, np.flatnonzero(mask)])
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    for bad in ([np.array([0, 300])], [np.array([-1, 5])], [mask[:-1]], [np.array([], dtype=int)]):
        with pytest.raises(ValueError, match=r"rows\[0\] must be indices from 0 to 299 or a mask of 300"):
            fit_stack([one], X, y, rows=bad)
    with pytest.raises(ValueError, match="rows must have an entry per estimator, got 1 for 2"):
        fit_stack([one, other], X, y, rows=[mask])


def test_sparse_and_dense_tables_in_one_call(classes):
    X, y = classes
    nets = [BNMLPClassifier((8,), max_iter=2, random_state=i, dtype="float64") for i in range(3)]
    expected = [clone(net).fit(X, y).predict_proba(X) for net in nets]
    fit_stack(nets, [sparse.csr_array(X), X, sparse.csr_matrix(X)], [y, y, y])
    for net, probability in zip(nets, expected, strict=True):
        np.testing.assert_allclose(net.predict_proba(X), probability, atol=1e-9)


def test_a_users_interrupt_is_not_a_callbacks_stop(classes):
    def interrupt(epoch, scores):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_stack([BNMLPClassifier((8,))], *classes, on_epoch_end=interrupt)


def test_an_interrupt_outside_a_users_callback_is_not_its_stop(classes, monkeypatch):
    def interrupt(self, net, **kwargs):
        raise KeyboardInterrupt

    network = BNMLPClassifier((8,), max_iter=3, callbacks=[Callback()])
    assert network.fit(*classes).n_iter_ == 3
    with monkeypatch.context() as patch:
        patch.setattr(EpochTimer, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            network.fit(*classes)
    monkeypatch.setattr(Callback, "on_epoch_end", interrupt)
    assert network.fit(*classes).n_iter_ == 1


def test_a_diverged_member_takes_no_other_with_it(classes):
    X, y = classes
    nets = [
        BNMLPRegressor((8,), solver="sgd", batch_norm=False, learning_rate_init=lr, max_iter=20) for lr in (1e-3, 1e9)
    ]
    with pytest.warns(FitFailedWarning, match=r"Estimators \[1\] of 2 are not fitted"):
        fit_stack(nets, X, y)
    assert np.isfinite(nets[0].predict(X)).all()
    assert not hasattr(nets[1], "net_")
    with pytest.raises(ValueError, match="The training diverged"):
        nets[1].fit(X, y)


FIT_AND_PRINT = """
import hashlib
from sklearn.datasets import make_classification
from sk_bnreg import BNMLPClassifier
X, y = make_classification(n_samples=500, random_state=0)
net = BNMLPClassifier(dropout=0.1, early_stopping=True, random_state=3, max_iter=5).fit(X, y)
print(hashlib.sha256(net.predict_proba(X).tobytes()).hexdigest())
"""


def test_same_seed_gives_the_same_bits_here_and_in_another_process():
    X, y = make_classification(n_samples=500, random_state=0)
    net = BNMLPClassifier(dropout=0.1, early_stopping=True, random_state=3, max_iter=5)
    first = net.fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(first, net.fit(X, y).predict_proba(X))
    there = subprocess.run([sys.executable, "-c", FIT_AND_PRINT], capture_output=True, text=True, check=True).stdout
    assert there.strip() == hashlib.sha256(first.tobytes()).hexdigest()


def test_a_fit_of_any_numbers_predicts_finite_ones_or_says_what_is_wrong():
    """Of any size, so that products and sums overflow, at rates and strengths that no one would take."""
    rng = np.random.default_rng(0)
    outcomes = []
    for seed in range(250):
        n_rows, x_size, y_size = (int(rng.choice([1, 2, 20, 250])), *10.0 ** rng.integers(-40, 41, 2))
        X, classification = rng.standard_normal((n_rows, 3)) * x_size, seed % 2
        make = BNMLPClassifier if classification else BNMLPRegressor
        net = make(
            [(), (4,), (8, 3)][seed % 3],
            rng.choice(["identity", "logistic", "tanh", "relu", "gelu", "silu"]),
            batch_norm=bool(rng.integers(2)),
            l2=rng.choice([0.0, 10.0, 1e6]),
            l2_mode=rng.choice(["decoupled", "loss"]),
            solver=rng.choice(["adam", "sgd"]),
            learning_rate_init=rng.choice([0.01, 1.0, 1e3]),
            max_iter=int(rng.integers(1, 4)),
            n_ensemble=2,
            numeric_embedding=["auto", "piecewise-linear", None][rng.integers(3)],
            dtype=["float32", "float64"][rng.integers(2)],
            random_state=seed,
        )
        try:
            net.fit(X, rng.integers(0, 3, n_rows) if classification else rng.standard_normal(n_rows) * y_size)
        except ValueError as error:
            outcomes.append(str(error).split(":")[0][:20])
        else:
            outcomes.append("fitted")
            assert np.isfinite(net.predict_proba(X) if classification else net.predict(X)).all(), net
    assert {"fitted", "The training diverge", "X must be at most 1."} <= set(outcomes)


def test_targets_of_any_scale_are_learnt_alike():
    X, y = make_regression(200, 4, random_state=0)
    net = BNMLPRegressor(max_iter=20, dtype="float64", random_state=0)
    expected = net.fit(X, y).predict(X)
    for scale in (1e-250, 1e-30, 1e30, 1e140):
        np.testing.assert_allclose(net.fit(X, y * scale).predict(X) / scale, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"y must be at most 1e\+150 in size"):
        net.fit(X, y * 1e150)


def test_a_numbered_processor_is_the_processor():
    X, y = make_classification(60, 5, random_state=0)
    plain, numbered = (BNMLPClassifier((4,), max_iter=2, device=device, random_state=0) for device in ("cpu", "cpu:0"))
    np.testing.assert_array_equal(numbered.fit(X, y).predict_proba(X), plain.fit(X, y).predict_proba(X))
    assert numbered.structure_.device == "cpu"  # which the compiled kernel is for
