"""BNMLPClassifier, BNMLPRegressor and fit_stack: scikit-learn's interface to the engine.

They check data and parameters, make tasks of them and take over the trained nets. Here, and nowhere else, stands how
to find, take out and put back the network at the end of a pipeline. It knows the engine; it knows no search.
"""
