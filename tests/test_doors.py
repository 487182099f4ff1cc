"""At every public door: right, or refused in words about an argument. benchmarks/bad_inputs.py tries more cases."""

import warnings

import command_doors
import estimator_doors
import model_doors
import numpy as np
import pytest
import search_doors
import study_doors
from doors import Door, judge, tally
from estimator_doors import (
    WORDS,
    Case,
    visit_budget,
    visit_fit,
    visit_fit_with_validation,
    visit_partial_fit,
    visit_warm_start,
)
from hypothesis import strategies as st
from model_doors import visit_load, visit_save, visit_stack
from sklearn.utils import check_array

# of doors that train for long, few; in most cases at those of searches and studies something is wrong
MANY = [(door, 30) for door in [*estimator_doors.DOORS, *model_doors.DOORS]]
MANY += [(door, 20) for door in command_doors.DOORS]
FEW = [(door, 20) for door in search_doors.DOORS]
FEW += [(door, 30 if door.name == "compare_schemes" else 8) for door in study_doors.DOORS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("door", "n"), MANY + FEW, ids=[door.name for door, _ in MANY + FEW])
def test_cases_are_right_or_refused(door, n):
    result = tally(door, n)
    assert not result.wrong
    assert result.counts["refused"]
    assert result.counts["right"] or (door, n) in FEW


def _changes_random_numbers(case):
    yield ()
    np.random.rand()  # noqa: NPY002
    yield


def _changes_what_it_was_given(case):
    table = np.zeros(3)
    yield (table,)
    table[0] = 1
    yield


def _warns_as_numpy(case):
    yield ()
    np.array([1e300]).astype(np.float32)
    yield


def _leaves_a_filter(case):
    yield ()
    warnings.simplefilter("ignore")
    yield


def _says_it_in_another_s_words(case):
    yield ()
    np.ones(3) @ np.ones(2)
    yield


def _gives_nan(case):
    yield ()
    yield
    assert np.isfinite(np.nan), "nan"


def _says_it_in_scikit_learn_s_words(case):
    yield ()
    check_array([[np.nan]])
    yield


@pytest.mark.parametrize(
    ("visit", "found"),
    [
        (_changes_random_numbers, "wrong changed: numpy's random numbers"),
        (_changes_what_it_was_given, "wrong changed: object 0"),
        (_warns_as_numpy, "wrong RuntimeWarning: overflow"),
        (_leaves_a_filter, "wrong warnings.filters changed"),
        (_says_it_in_another_s_words, "wrong raised by"),
        (_gives_nan, "wrong after the call"),
        (_says_it_in_scikit_learn_s_words, "refused Input contains NaN"),
    ],
)
def test_what_is_wrong_is_found(visit, found):
    assert " ".join(judge(Door("made up", st.none(), visit, WORDS), None)).startswith(found)


def _fit(kind, target, n_rows=12, n_columns=3, **odd):
    return visit_fit, Case(kind, target, n_rows, n_columns, 0, **odd)


def _stack(form="one", rows="none", hook="none", stranger=""):
    case = Case("regressor", "numbers", 12, 3)
    return visit_stack, (case, [case], stranger, form, rows, "none", hook)


@pytest.mark.parametrize(
    ("visit_and_case", "said"),
    [
        (_fit("regressor", "numbers", params={"hidden_layer_sizes": np.uint8(2)}), ""),
        (_fit("regressor", "numbers", params={"hidden_layer_sizes": True}), ""),
        (_fit("regressor", "numbers", params={"n_ensemble": True}), ""),
        (_fit("regressor", "numbers", params={"max_iter": True}), ""),
        (_fit("classifier", "binary", params={"n_ensemble": np.uint8(2)}), ""),
        (_fit("regressor", "numbers", 1, 1, params={"dtype": "float64"}, X="reversed"), ""),
        (_fit("regressor", "numbers", params={"hidden_layer_sizes": 10**30}), "hidden_layer_sizes must be"),
        (_fit("regressor", "numbers", params={"hidden_layer_sizes": {1: 2}}), "hidden_layer_sizes must be"),
        (_fit("regressor", "numbers", params={"hidden_layer_sizes": (2**20, 2**20)}), "set one of them lower"),
        (_fit("classifier", "binary", params={"epsilon": 10**400}), "epsilon must be a number that 64 bits hold"),
        (_fit("classifier", "binary", params={"l2": {"weights": 10**400}}), "that 64 bits hold"),
        ((visit_budget, ("classifier", [], 10**400, 40)), "budget must be a finite number >= 0"),
        (_fit("classifier", "binary", params={"l2": np.float32(0.5)}), ""),
        (_fit("classifier", "binary", params={"n_ensemble": 2**62}), "'n_ensemble' parameter"),
        (_fit("classifier", "binary", params={"device": "1e3"}), "device must be one that torch can use"),
        (_fit("classifier", "binary", params={"device": "meta"}), "device must be one that torch can use"),
        (_fit("classifier", "binary", params={"callbacks": (4, 0)}), "callbacks must be skorch callbacks"),
        (_fit("classifier", "binary", params={"class_weight": {0: -1.0}}), "class_weight must be finite"),
        (_fit("classifier", "words", params={"class_weight": {0: 1.0}}, y="dates"), "class_weight must be None or"),
        (_fit("classifier", "binary", X="equal names"), "several are called same"),
        (_fit("classifier", "binary", X="a column of words"), "but c0 can't be made numbers"),
        (_fit("classifier", "binary", X="a column of dates"), "but c0 can't be made numbers"),
        (_fit("classifier", "binary", X="dates"), "X must be numbers, got datetime64"),
        (_fit("classifier", "binary", X="masked"), "X must not have masked values"),
        (_fit("classifier", "binary", 12, 1, X="a column of sparse"), "fill value 0"),
        (_fit("classifier", "binary", X="1e300"), "too large for dtype"),
        (_fit("classifier", "binary", y="NA"), "y must not have missing values"),
        (_fit("classifier", "binary", y="None"), "y must not have missing values"),
        (_fit("classifier", "binary", y="mixed"), "y must be labels of one kind"),
        (_fit("classifier", "binary", y="structured"), "y must be labels or numbers"),
        (_fit("classifier", "binary", y="1e20"), "Unknown label type"),
        (_fit("classifier", "labels", y="big-endian"), ""),
        (_fit("regressor", "numbers", y="dates"), "y must be numbers"),
        (_fit("regressor", "numbers", y="longdouble"), ""),
        (_fit("regressor", "numbers", weight="1e308"), ""),
        (_fit("classifier", "words", params={"n_ensemble": 2}, weight="far apart"), ""),
        ((visit_fit_with_validation, Case("classifier", "words", 1, 3, 0, {"class_weight": "balanced"},
                                          validation=("X", "tuple"))), "y has classes"),
        ((visit_fit_with_validation, Case("classifier", "words", 30, 3, validation=("y", "two columns"))),
         "y must have 1"),
        ((visit_warm_start, (Case("classifier", "labels", 7, 3),
                             Case("classifier", "labels", 12, 3, 3, {"class_weight": "balanced"}, y="tuples"))),
         "y must have 3 columns as in the first fit, got 1"),
        ((visit_warm_start, (Case("classifier", "binary", 12, 3), Case("classifier", "binary", 12, 2))), "features"),
        (
            (visit_partial_fit, (Case("classifier", "binary", 9, 3), "nan", Case("classifier", "binary", 9, 3))),
            "NaN",
        ),
        (
            (visit_partial_fit, (Case("regressor", "numbers", 9, 3, 0, {}, "", "subnormal"), "all",
                                 Case("regressor", "numbers", 9, 3))),
            "y must be of about the size",
        ),
        (_stack(stranger="no sequence"), "estimators must be one or more"),
        (_stack(form="short list"), "X must be a list of one per estimator"),
        (_stack(rows="a number"), "must be indices from 0 to 11"),
        (_stack(hook="no callable"), "on_epoch_end must be None or callable"),
        (_stack(hook="stop a number"), "on_epoch_end must return None or indices"),
        (_stack(hook="stop wrong"), "on_epoch_end must return None or indices"),
        ((visit_save, ("network", "missing folder")), "path must be that of a file in a folder"),
        ((visit_save, ("network", "folder")), "path must be that of a file in a folder"),
        ((visit_save, ("network", "list")), "path must be that of a file, as text or a Path"),
        ((visit_load, ("a number", "network", "sound", 0)), "path must be that of a file, as text or a Path"),
        ((visit_load, ("nul", "network", "sound", 0)), "path must be that of a file, as text or a Path"),
    ],
)  # fmt: skip
def test_what_used_to_fail_in_another_s_words(visit_and_case, said):
    visit, case = visit_and_case
    words = WORDS | {"estimators", "rows", "on_epoch_end", "path", "budget"}
    outcome, why = judge(Door("named", st.none(), visit, words), case)
    assert outcome == ("refused" if said else "right"), why
    assert said in why
