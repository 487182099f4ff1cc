"""One thread per process: the tests' networks are so small that a second only waits, for long on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
