"""Where processes of tests come from: one that has imported what they need and started no thread of Python's.

A start of Python that imports torch takes seconds, a fork of such a process a tenth of one.
"""

import multiprocessing

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "sk_bnreg.study.survey",
        "sk_bnreg.search.tuning",
        "sk_bnreg.cli.main",
        "sk_bnreg.engine.kernel",
        "torch._dynamo",
        "alembic.command",
        "optuna.storages._rdb.models",
        "psycopg2",
        "distributed.nanny",
        "distributed.worker",
    ]
)
