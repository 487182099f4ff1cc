"""Candidates on folds: `evaluate` fits and scores them, under every search and the study.

Around it are scikit-learn's grid and random search, the Optuna study with its queue of trials that workers share, and
search spaces. It knows estimators and the engine; it knows no schemes and no plots.
"""
