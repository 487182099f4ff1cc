"""What L2 does beside batch norm: norms and rotation, `diagnose`, and published results run afresh.

It knows the engine, the estimators, the searches and the statistics.
"""
