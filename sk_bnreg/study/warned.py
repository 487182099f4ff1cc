"""recorded: what is warned of in a thread, whatever other threads do meanwhile."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock, get_ident
from typing import Any

Kind = tuple[str, type[Warning]]  # a message and its category

_lock = Lock()
_lists: dict[int, list[list[Kind]]] = {}  # those of each thread, the innermost last
_changed = ExitStack()  # what the first to begin changes and the last to end puts back


@contextmanager
def recorded() -> Iterator[list[Kind]]:
    """Record warnings instead of showing them; `warnings.catch_warnings` would do so for all threads.

    Yields
    ------
    list of (str, category)
        This thread's warnings, of other threads' none.

    Examples
    --------
    >>> import warnings
    >>> from sk_bnreg.study.warned import recorded
    >>> with recorded() as warned:
    ...     warnings.warn("Beware!")
    >>> warned
    [('Beware!', <class 'UserWarning'>)]
    """
    warned: list[Kind] = []
    with _lock:
        if not _lists:
            _changed.enter_context(warnings.catch_warnings())
            warnings.simplefilter("always")
            warnings.showwarning = partial(_hear, warnings.showwarning)
        _lists.setdefault(get_ident(), []).append(warned)
    try:
        yield warned
    finally:
        with _lock:
            _lists[get_ident()].pop()
            if not _lists[get_ident()]:
                del _lists[get_ident()]
            if not _lists:
                _changed.close()


def _hear(show: Any, message: Warning | str, category: type[Warning], *about: Any, **more: Any) -> None:
    own = _lists.get(get_ident())
    if own is None:
        show(message, category, *about, **more)
    else:
        own[-1].append((str(message), category))
