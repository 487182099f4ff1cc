"""BNMLPClassifier and BNMLPRegressor: scikit-learn estimators on the engine."""

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if

from sk_bnreg.borrowed import StrOptions, check_partial_fit_first_call
from sk_bnreg.estimators.base import BaseBNMLP, trains_on
from sk_bnreg.estimators.preparation import is_single
from sk_bnreg.estimators.targets import mean_of_roots


class BNMLPClassifier(ClassifierMixin, BaseBNMLP):
    """Multilayer perceptron classifier with batch norm and L2 on the parameters of your choice.

    It minimises the log loss (one logit for two classes, a softmax for more, a logit per
    label for multilabel targets) plus, for each role of parameters,
    ``l2 / 2 * ||theta_role||^2``. Arguments that `sklearn.neural_network.MLPClassifier`
    has too mean the same here, but ``alpha``: there the penalty is divided by the rows of
    a batch, so ``l2 = alpha / batch_size`` with ``l2_mode="loss"``.

    Parameters
    ----------
    hidden_layer_sizes : int, array-like of int or str, default=(64, 64, 64)
        Units of each hidden layer; () is a linear model. "64-64-64" is the same as text, for
        searches whose storage keeps text and numbers alone.
    activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
        Activation of the hidden layers.
    batch_norm : bool, default=True
        Normalise each hidden layer over the batch before its activation, with a scale
        gamma and a shift beta per unit (Ioffe & Szegedy 2015). Predictions use running
        statistics: the mean over the first ten steps, then with momentum 0.1.
    dropout : float, default=0.0
        Share of hidden units dropped in training, in [0, 1).
    l2 : float or mapping of role to float, default=1.0
        Strength of the penalty ``l2 / 2 * ||theta||^2``, whose gradient is l2 * theta
        (torch's ``weight_decay``); it does not depend on the batch size. A mapping gives
        each role its own strength, and `l2_targets` is not consulted.
    l2_budget : float or None, default=None
        The penalty as a decay budget D, in place of `l2`: `fit` takes the strength whose sum of
        lr * l2 over all planned steps is D, the e-folds by which decay alone would shrink a
        parameter. So a search tunes learning rate and penalty apart. Not with Adam and
        ``l2_mode="loss"``, where D does not exist.
    l2_targets : {"weights", "weights+gamma+beta", "all", "none"} or tuple of roles, default="weights"
        What `l2` penalises. The roles are "hidden_weights", "output_weights" (together
        "weights"), "biases", "gamma" and "beta". A role that the network lacks is empty.
    l2_mode : {"decoupled", "loss"}, default="decoupled"
        "decoupled": theta -= lr * l2 * theta beside the solver's step (AdamW). "loss": the
        penalty's gradient goes through the solver; with Adam, each parameter's decay is then
        divided by the scale of its own gradient, and a good `l2` is a thousand times smaller.
    solver : {"adam", "sgd"}, default="adam"
        The solver; "sgd" is with momentum.
    batch_size : int or "auto", default="auto"
        Rows of a minibatch; "auto" is 200, 128, 64 or 32, the largest that gives at least 12
        batches, and for up to 64 rows one batch. A last batch of one row joins the batch before it.
    learning_rate : {"constant", "cosine", "one-cycle"}, default="one-cycle"
        Schedule of the learning rate over `max_iter` epochs; `learning_rate_init` is
        its largest value.
    learning_rate_init : float, default=0.01
        Largest learning rate.
    max_iter : int, default=60
        Epochs; at most, where training can stop early.
    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1).
    beta_1 : float, default=0.9
        Decay of Adam's first moment.
    beta_2 : float, default=0.999
        Decay of Adam's second moment.
    epsilon : float, default=1e-8
        Adam's guard against division by zero.
    batch_norm_eps : float, default=1e-5
        Added to the variance in batch norm.
    early_stopping : bool or "auto", default="auto"
        Set rows aside and keep the weights of the epoch with the lowest loss on them, and
        stop as `n_iter_no_change` says. "auto" does so with more than 200 rows and when `X_val` is given.
    validation_fraction : float, default=0.1
        Share of the rows set aside for early stopping.
    n_iter_no_change : int, default=inf
        Epochs without an improvement of the validation loss by `tol` before training
        stops; without early stopping, of the training loss, if the learning rate is
        constant. By default training goes on to the end of its schedule.
    tol : float, default=1e-4
        The least improvement of the loss that counts.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with `sample_weight`; "balanced" counts classes by their sample weight.
    n_ensemble : int, default=8
        Networks trained from different seeds, at once; predictions are their mean. Each
        sets aside other rows for early stopping.
    members : list of dict or None, default=None
        Networks that differ, in place of `n_ensemble` alike: for each the parameters in which it differs from the
        estimator's own, such as ``[{"batch_norm": False, "dropout": 0.1}, {"l2": 3.0}]``.
    numeric_embedding : {"auto", "periodic", "piecewise-linear"} or None, default="auto"
        The first layer is given, beside each feature of more than two values, three learned mixtures of 8 functions
        of it (Gorishniy et al. 2022): cosines, or lines that rise between two quantiles, for steps. "auto": lines in
        the second network and every fourth after it, else cosines. Of more than 256 such features none is embedded.
    frequency_init_scale : float or "auto", default="auto"
        Standard deviation of the cosines' initial frequencies, in periods per unit of a feature: low for smooth
        tables, high where steps matter. "auto": 0.2, 0.2, 0.1 and 1 for the `n_ensemble` networks in turn.
    warm_start : bool, default=False
        Go on from the weights of the last `fit`, with a new schedule and solver state.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, row order, dropout and the early-stopping rows.
    device : str or torch.device, default="cpu"
        Where to train and predict, such as "cuda".
    dtype : {"float32", "float64"}, default="float32"
        Precision of the computation.
    callbacks : list of skorch callbacks or None, default=None
        Given to the skorch net `net_`. They see a row per epoch in ``net.history``, with
        "train_loss" and, with early stopping, "valid_loss".
    verbose : bool, default=False
        Print the loss after every epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    net_ : skorch.NeuralNet
        The trained net: ``net_.history``, ``net_.save_params``, ``net_.module_``.
    n_iter_ : int
        Epochs that the last call of `fit` or `partial_fit` trained.
    t_ : int
        Rows seen in training, each as often as it was.
    best_iter_ : int
        Epochs after which the kept weights were reached; all without early stopping.
    loss_curve_ : list of float
        Mean training loss of each epoch, of all calls that went on with one another; with ``l2_mode="loss"`` the
        penalty at its end is included.
    loss_, best_loss_ : float
        The last and the least of `loss_curve_`; with early stopping there is no `best_loss_` (None).
    validation_loss_curve_ : list of float or None
        Validation loss after each epoch; None without early stopping.
    validation_scores_, best_validation_score_ : list of float, float
        Minus `validation_loss_curve_`, by which and not by accuracy an epoch is chosen, and the greatest; or None.
    n_layers_, n_outputs_ : int
        Layers, the inputs counted as one, and units of the last one.
    out_activation_ : {"logistic", "softmax", "identity"}
        What makes predictions of the last layer.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer; with batch norm of the output layer alone.
    gammas_, betas_ : list of ndarray of shape (n_units,)
        Scales and shifts of batch norm.
    l2_report_ : list of RoleReport
        For each role its number of parameters, L2 strength and decay budget, the sum of lr * l2 over the steps: the
        e-folds by which decay alone would have shrunk it.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had any.

    Notes
    -----
    Of an ensemble, `net_` and the attributes from `n_iter_` to `l2_report_` are those of the first member.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), BNMLPClassifier(random_state=0))
    >>> bool(cross_val_score(model, X, y).mean() > 0.96)
    True
    """

    _parameter_constraints: dict = {
        **BaseBNMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(64, 64, 64),
        activation="relu",
        *,
        batch_norm=True,
        dropout=0.0,
        l2=1.0,
        l2_budget=None,
        l2_targets="weights",
        l2_mode="decoupled",
        solver="adam",
        batch_size="auto",
        learning_rate="one-cycle",
        learning_rate_init=0.01,
        max_iter=60,
        momentum=0.9,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_norm_eps=1e-5,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=np.inf,
        tol=1e-4,
        class_weight=None,
        n_ensemble=8,
        members=None,
        numeric_embedding="auto",
        frequency_init_scale="auto",
        warm_start=False,
        random_state=None,
        device="cpu",
        dtype="float32",
        callbacks=None,
        verbose=False,
    ):
        super().__init__(
            hidden_layer_sizes, activation, batch_norm=batch_norm, dropout=dropout, l2=l2, l2_budget=l2_budget,
            l2_targets=l2_targets, l2_mode=l2_mode, solver=solver, batch_size=batch_size, learning_rate=learning_rate,
            learning_rate_init=learning_rate_init, max_iter=max_iter, momentum=momentum, beta_1=beta_1, beta_2=beta_2,
            epsilon=epsilon, batch_norm_eps=batch_norm_eps, early_stopping=early_stopping,
            validation_fraction=validation_fraction, n_iter_no_change=n_iter_no_change, tol=tol, n_ensemble=n_ensemble,
            members=members, numeric_embedding=numeric_embedding, frequency_init_scale=frequency_init_scale,
            warm_start=warm_start, random_state=random_state, device=device, dtype=dtype, callbacks=callbacks,
            verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    @available_if(trains_on)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch at `learning_rate_init`, from where the last call ended.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The target.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        self : object
            The estimator.
        """
        # weights from the first rows would be wrong for all later ones, silently
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' is not known before all rows are; give partial_fit a dict.")
        with np.errstate(invalid="ignore"):  # it compares numbers with themselves as integers
            check_partial_fit_first_call(self, classes)
        return self._partial_fit(X, y, sample_weight, self.classes_)

    def predict(self, X):
        """Predict the most probable class, or each label with a probability over 1/2.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        probability = self.predict_proba(X)
        if self.target_.multilabel:
            return (probability > 0.5).astype(np.int64)
        return self.classes_[probability.argmax(axis=1)]

    def predict_proba(self, X):
        """Estimate probabilities, the mean over the ensemble's members: of their square roots, squared.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
            Columns are in the order of `classes_`.
        """
        outputs = self._outputs(X).swapaxes(1, 2)  # (M, n_samples, C)
        if self.target_.loss == "multiclass":
            return mean_of_roots(softmax(outputs, axis=2))
        either = mean_of_roots(expit(np.stack([-outputs, outputs], axis=3)))  # (n_samples, C, 2)
        if self.target_.multilabel:
            return either[:, :, 1]
        return np.ones((len(either), 1)) if len(self.classes_) == 1 else either[:, 0]

    def predict_log_proba(self, X):
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
        """
        with np.errstate(divide="ignore"):  # of 0 it is -inf
            return np.log(self.predict_proba(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class BNMLPRegressor(RegressorMixin, BaseBNMLP):
    """Multilayer perceptron regressor with batch norm and L2 on the parameters of your choice.

    It minimises half the mean squared error of the targets, which it standardises
    inside, plus, for each role of parameters, ``l2 / 2 * ||theta_role||^2``. Arguments that
    `sklearn.neural_network.MLPRegressor` has too mean the same here, but ``alpha``: there
    the penalty is divided by the rows of a batch, so ``l2 = alpha / batch_size`` with
    ``l2_mode="loss"``.

    Parameters
    ----------
    hidden_layer_sizes : int, array-like of int or str, default=(64, 64, 64)
        Units of each hidden layer; () is a linear model. "64-64-64" is the same as text, for
        searches whose storage keeps text and numbers alone.
    activation : {"identity", "logistic", "tanh", "relu", "gelu", "silu"}, default="relu"
        Activation of the hidden layers.
    batch_norm : bool, default=True
        Normalise each hidden layer over the batch before its activation, with a scale
        gamma and a shift beta per unit (Ioffe & Szegedy 2015). Predictions use running
        statistics: the mean over the first ten steps, then with momentum 0.1.
    dropout : float, default=0.0
        Share of hidden units dropped in training, in [0, 1).
    l2 : float or mapping of role to float, default=1.0
        Strength of the penalty ``l2 / 2 * ||theta||^2``, whose gradient is l2 * theta
        (torch's ``weight_decay``); it does not depend on the batch size. A mapping gives
        each role its own strength, and `l2_targets` is not consulted.
    l2_budget : float or None, default=None
        The penalty as a decay budget D, in place of `l2`: `fit` takes the strength whose sum of
        lr * l2 over all planned steps is D, the e-folds by which decay alone would shrink a
        parameter. So a search tunes learning rate and penalty apart. Not with Adam and
        ``l2_mode="loss"``, where D does not exist.
    l2_targets : {"weights", "weights+gamma+beta", "all", "none"} or tuple of roles, default="weights"
        What `l2` penalises. The roles are "hidden_weights", "output_weights" (together
        "weights"), "biases", "gamma" and "beta". A role that the network lacks is empty.
    l2_mode : {"decoupled", "loss"}, default="decoupled"
        "decoupled": theta -= lr * l2 * theta beside the solver's step (AdamW). "loss": the
        penalty's gradient goes through the solver; with Adam, each parameter's decay is then
        divided by the scale of its own gradient, and a good `l2` is a thousand times smaller.
    solver : {"adam", "sgd"}, default="adam"
        The solver; "sgd" is with momentum.
    batch_size : int or "auto", default="auto"
        Rows of a minibatch; "auto" is 200, 128, 64 or 32, the largest that gives at least 12
        batches, and for up to 64 rows one batch. A last batch of one row joins the batch before it.
    learning_rate : {"constant", "cosine", "one-cycle"}, default="one-cycle"
        Schedule of the learning rate over `max_iter` epochs; `learning_rate_init` is
        its largest value.
    learning_rate_init : float, default=0.01
        Largest learning rate.
    max_iter : int, default=60
        Epochs; at most, where training can stop early.
    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1).
    beta_1 : float, default=0.9
        Decay of Adam's first moment.
    beta_2 : float, default=0.999
        Decay of Adam's second moment.
    epsilon : float, default=1e-8
        Adam's guard against division by zero.
    batch_norm_eps : float, default=1e-5
        Added to the variance in batch norm.
    early_stopping : bool or "auto", default="auto"
        Set rows aside and keep the weights of the epoch with the lowest loss on them, and
        stop as `n_iter_no_change` says. "auto" does so with more than 200 rows and when `X_val` is given.
    validation_fraction : float, default=0.1
        Share of the rows set aside for early stopping.
    n_iter_no_change : int, default=inf
        Epochs without an improvement of the validation loss by `tol` before training
        stops; without early stopping, of the training loss, if the learning rate is
        constant. By default training goes on to the end of its schedule.
    tol : float, default=1e-4
        The least improvement of the loss that counts.
    n_ensemble : int, default=8
        Networks trained from different seeds, at once; predictions are their mean. Each
        sets aside other rows for early stopping.
    members : list of dict or None, default=None
        Networks that differ, in place of `n_ensemble` alike: for each the parameters in which it differs from the
        estimator's own, such as ``[{"batch_norm": False, "dropout": 0.1}, {"l2": 3.0}]``.
    numeric_embedding : {"auto", "periodic", "piecewise-linear"} or None, default="auto"
        The first layer is given, beside each feature of more than two values, three learned mixtures of 8 functions
        of it (Gorishniy et al. 2022): cosines, or lines that rise between two quantiles, for steps. "auto": lines in
        the second network and every fourth after it, else cosines. Of more than 256 such features none is embedded.
    frequency_init_scale : float or "auto", default="auto"
        Standard deviation of the cosines' initial frequencies, in periods per unit of a feature: low for smooth
        tables, high where steps matter. "auto": 0.2, 0.2, 0.1 and 1 for the `n_ensemble` networks in turn.
    warm_start : bool, default=False
        Go on from the weights of the last `fit`, with a new schedule and solver state.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, row order, dropout and the early-stopping rows.
    device : str or torch.device, default="cpu"
        Where to train and predict, such as "cuda".
    dtype : {"float32", "float64"}, default="float32"
        Precision of the computation.
    callbacks : list of skorch callbacks or None, default=None
        Given to the skorch net `net_`. They see a row per epoch in ``net.history``, with
        "train_loss" and, with early stopping, "valid_loss".
    verbose : bool, default=False
        Print the loss after every epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained net: ``net_.history``, ``net_.save_params``, ``net_.module_``.
    n_iter_ : int
        Epochs that the last call of `fit` or `partial_fit` trained.
    t_ : int
        Rows seen in training, each as often as it was.
    best_iter_ : int
        Epochs after which the kept weights were reached; all without early stopping.
    loss_curve_ : list of float
        Mean training loss of each epoch, of all calls that went on with one another; with ``l2_mode="loss"`` the
        penalty at its end is included.
    loss_, best_loss_ : float
        The last and the least of `loss_curve_`; with early stopping there is no `best_loss_` (None).
    validation_loss_curve_ : list of float or None
        Validation loss after each epoch; None without early stopping.
    validation_scores_, best_validation_score_ : list of float, float
        Minus `validation_loss_curve_`, by which and not by accuracy an epoch is chosen, and the greatest; or None.
    n_layers_, n_outputs_ : int
        Layers, the inputs counted as one, and units of the last one.
    out_activation_ : {"logistic", "softmax", "identity"}
        What makes predictions of the last layer.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer; with batch norm of the output layer alone.
    gammas_, betas_ : list of ndarray of shape (n_units,)
        Scales and shifts of batch norm.
    l2_report_ : list of RoleReport
        For each role its number of parameters, L2 strength and decay budget, the sum of
        lr * l2 over the steps: the e-folds by which decay alone would have shrunk it.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had any.

    Notes
    -----
    Of an ensemble, `net_` and the attributes from `n_iter_` to `l2_report_` are those of the first member.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), BNMLPRegressor(random_state=0))
    >>> bool(cross_val_score(model, X, y).mean() > 0.3)
    True
    """

    @available_if(trains_on)
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch at `learning_rate_init`, from where the last call ended.

        The first call's targets decide the scale on which all are standardised.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        self : object
            The estimator.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """Predict the targets, the mean over the ensemble's members.

        In single precision where all of `X` is, unless that is too coarse for targets far from 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
        """
        outputs = self._outputs(X).mean(axis=0)  # (C, n_samples)
        single = is_single(X) and self.target_.in_single_precision
        return self.target_.decode(outputs).astype(np.float32 if single else np.float64)
