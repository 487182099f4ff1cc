"""The command ``sk-bnreg``: compare, tune, survey, reproduce.

It reads arguments, calls what the package exports and prints.
"""
