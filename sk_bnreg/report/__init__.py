"""Displays and HTML pages: plain results in, pictures and pages out.

It knows the estimators, for the curves of a network, and the statistics. What it reads of a comparison or
a survey stands in results.py, as protocols that the study's classes fulfil; no file here imports the study.
"""
