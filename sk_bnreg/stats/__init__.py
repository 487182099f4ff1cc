"""Arrays in, small results out: tests between two schemes on folds, and over many tables.

Nothing of this package is imported here.
"""
