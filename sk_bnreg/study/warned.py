"""recorded: what is warned of in a thread, whatever other threads do meanwhile."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock, get_ident
from typing import Any

_lock = Lock()
_lists: dict[int, list[list[str]]] = {}  # those of each thread, the innermost last
_changed = ExitStack()  # what the first to begin changes and the last to end puts back


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Record warnings instead of showing them; `warnings.catch_warnings` would do so for all threads.

    Yields
    ------
    list of str
        The messages of this thread's warnings, of other threads' none.

    Examples
    --------
    >>> import warnings
    >>> from sk_bnreg.study.warned import recorded
    >>> with recorded() as messages:
    ...     warnings.warn("Beware!")
    >>> messages
    ['Beware!']
    """
    messages: list[str] = []
    with _lock:
        if not _lists:
            _changed.enter_context(warnings.catch_warnings())
            warnings.simplefilter("always")
            warnings.showwarning = partial(_hear, warnings.showwarning)
        _lists.setdefault(get_ident(), []).append(messages)
    try:
        yield messages
    finally:
        with _lock:
            _lists[get_ident()].pop()
            if not _lists[get_ident()]:
                del _lists[get_ident()]
            if not _lists:
                _changed.close()


def _hear(show: Any, message: Warning | str, *about: Any, **more: Any) -> None:
    own = _lists.get(get_ident())
    if own is None:
        show(message, *about, **more)
    else:
        own[-1].append(str(message))
