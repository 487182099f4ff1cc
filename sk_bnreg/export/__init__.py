"""Fitted estimators as files: of arrays and JSON, which run no code when they are opened.

Imports the estimators and below.
"""
