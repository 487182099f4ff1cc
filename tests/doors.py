"""Cases at the public doors, often bad ones: what each does is judged here, for tests and for benchmarks/bad_inputs.py.

A case is right (what it gave was checked), refused (a ValueError or TypeError that says what is wrong with which
argument) or wrong: any other exception, somebody else's words, a check that failed, numpy's warnings, something of the
process or of the user's objects changed, two minutes gone by.
"""

import linecache
import os
import pickle
import random
import re
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import numpy as np
import sklearn
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

REFUSALS = (ValueError, TypeError, InvalidParameterError, NotFittedError)
# scikit-learn's own validation says it in words that users know
KNOWN_WORDS = ("/sklearn/utils/", "/sklearn/base.py")
# what numpy tells through `check_array` of data that are no numbers; `check_estimator` asks for some of it
NO_NUMBERS = (
    "could not convert",
    "argument must be a string or a real number",
    "setting an array element with",
    "Cannot cast",
)
# of what a user cannot change, or needs not hear
NOT_HEARD = (RuntimeWarning, DeprecationWarning, FutureWarning, np.exceptions.ComplexWarning)
SECONDS = 120


@dataclass(frozen=True)
class Door:
    """A public function or method with cases for it.

    Attributes
    ----------
    name : str
    cases : strategy
    visit : callable
        ``visit(case)`` is a generator: it makes the objects of the case and yields them, calls what it is about and
        yields, and checks what that gave. Only the call may refuse, and it must leave the objects as they are.
    words : frozenset of str
        Arguments that a refusal may name.
    trusted : tuple of str
        Parts of paths of files that may refuse and warn in words of their own, beside `KNOWN_WORDS`; then what fails
        before it comes to this package is refused too.
    """

    name: str
    cases: SearchStrategy
    visit: Callable[[Any], Iterator[Any]]
    words: frozenset[str]
    trusted: tuple[str, ...] = ()


@dataclass
class Tally:
    """How many cases of a door were right, refused and wrong; of the wrong ones the first of each kind."""

    counts: Counter = field(default_factory=Counter)
    wrong: dict[str, tuple[int, Any]] = field(default_factory=dict)

    def add(self, outcome, why, case):
        self.counts[outcome] += 1
        if outcome == "wrong":
            number, first = self.wrong.get(_kind_of(why), (0, (why, case)))
            self.wrong[_kind_of(why)] = number + 1, first


def judge(door: Door, case: Any) -> tuple[str, str]:
    """Return "right", "refused" or "wrong", and why."""
    visit = door.visit(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given_objects = next(visit) or ()
    before, kept = _world(), [_bytes(one) for one in given_objects]
    outcome, why = "right", ""
    with warnings.catch_warnings(record=True) as heard, redirect_stdout(StringIO()), _alarm():
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        called = False
        try:
            next(visit)
            called = True
            next(visit, None)
        except Exception as error:
            fault = "after the call" if called else _fault_of(error, door)
            outcome, why = ("wrong", f"{fault}: {_told(error)}") if fault else ("refused", str(error))
        if warnings.filters != filters:
            outcome, why = "wrong", "warnings.filters changed"
    after = _world()
    changed = [name for name in before if before[name] != after[name]]
    changed += [f"object {i}" for i, one in enumerate(given_objects) if _bytes(one) != kept[i]]
    ours = [one for one in heard if not any(part in one.filename for part in door.trusted)]
    unheard = [one for one in ours if issubclass(one.category, NOT_HEARD)]
    if outcome != "wrong" and changed:
        outcome, why = "wrong", f"changed: {', '.join(changed)}"
    if outcome != "wrong" and unheard:
        outcome, why = "wrong", f"{unheard[0].category.__name__}: {unheard[0].message} ({unheard[0].filename})"
    return outcome, why


def tally(door: Door, n: int, number: int = 0) -> Tally:
    """Judge n cases of a door, and go on after wrong ones."""
    result = Tally()

    @seed(number)
    @settings(
        max_examples=n, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(door.cases)
    def go(case):
        result.add(*judge(door, case), case)

    go()
    return result


def _fault_of(error: Exception, door: Door) -> str:
    """Say what is wrong with a refusal; nothing if it is a clear one."""
    trace, through_us = error.__traceback__, False
    while trace.tb_next is not None:
        trace = trace.tb_next
        through_us |= "/sk_bnreg/" in trace.tb_frame.f_code.co_filename
    path = trace.tb_frame.f_code.co_filename
    if door.trusted and not through_us:  # what stands around our own may fail in its own way
        return ""
    if isinstance(error, OSError) and error.filename and "path" in door.words:  # the system knows why, and says where
        return ""
    no_numbers = any(words in str(error) for words in NO_NUMBERS)
    trusted = door.trusted and (no_numbers or any(part in path for part in door.trusted))
    if trusted and isinstance(error, ValueError | TypeError):
        return ""
    if type(error) not in REFUSALS:
        return "not a ValueError or TypeError"
    meant = linecache.getline(path, trace.tb_lineno).strip().startswith("raise ")
    if any(part in path for part in KNOWN_WORDS):
        return "" if meant or no_numbers else f"raised by {path}:{trace.tb_lineno}"
    if "/sk_bnreg/" not in path or not meant:
        return f"raised by {path}:{trace.tb_lineno}"
    if not door.words & set(re.findall(r"\w+", str(error))):
        return "names no argument"
    return "" if str(error).rstrip().endswith(".") else "no sentence"


def _told(error: BaseException) -> str:
    trace, at = error.__traceback__, ""
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if "/sk_bnreg/" in path or "/tests/" in path:
            at = f"{os.path.basename(path)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} [{at}]"


def _kind_of(why: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", why)[:160]


def _world() -> dict[str, Any]:
    """Return what of the process no call may change."""
    pyplot = sys.modules.get("matplotlib")
    name, keys, *place = np.random.get_state()  # noqa: NPY002
    return {
        "torch's threads": torch.get_num_threads(),
        "torch's dtype": torch.get_default_dtype(),
        "torch's random numbers": torch.get_rng_state().numpy().tobytes(),
        "torch's gradients": torch.is_grad_enabled(),
        "numpy's random numbers": (name, keys.tobytes(), place),
        "numpy's errors": np.geterr(),
        "random's numbers": random.getstate(),
        "warnings.filters": list(warnings.filters),
        "figures": "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib.pyplot"].get_fignums(),
        "optuna's verbosity": "optuna" in sys.modules and sys.modules["optuna"].logging.get_verbosity(),
        "rcParams": pyplot and dict(dict.items(pyplot.rcParams)),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "scikit-learn's config": sklearn.get_config(),
        "threads": threading.active_count(),
    }


def _bytes(one: Any) -> bytes | str | None:
    try:  # what pandas and polars keep for themselves may change
        return repr(np.asarray(one, dtype=object).tolist()) if hasattr(one, "to_dict") else pickle.dumps(one)
    except Exception:  # what cannot be pickled, such as a lambda, is not compared
        return None


class _alarm:
    """Ends what takes longer than two minutes."""

    def __enter__(self):
        def ring(number, frame):
            raise TimeoutError(f"took over {SECONDS} s")

        self.before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)

    def __exit__(self, *error):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
