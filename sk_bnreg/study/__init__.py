"""Is a difference between schemes real? The study on one table, its store, tables from files, the survey.

It knows everything above it: searches fit and score the candidates, the statistics judge them, the report shows them.
"""
