"""Networks: parameters and rows in, trained parameters out.

It knows torch, skorch and numba, and no scikit-learn estimator. A `Task` says what to train on which rows and how;
`train_tasks` trains any number of them at once and gives back skorch nets. On a CPU the compiled kernel trains each
network by itself; on a GPU torch trains those of one structure as one batched program, which is also the reference
that the kernel is tested against.
"""
