"""Displays and HTML pages: plain results in, pictures and pages out.

It knows the estimators, for the curves of a network, and the statistics. A comparison or a survey reaches it as an
object with the attributes that a display names; no file here imports the study.
"""
