"""Displays of what L2 did in a fit."""

import numpy as np

from sk_bnreg.report.displays import COLOURS, Display
from sk_bnreg.report.results import check_kind

_FLOOR = 1e-17  # stands for no change at all on a logarithmic axis
_QUANTITIES = {
    "norm": "norm of the parameters",
    "effective_rate": "effective learning rate",
    "angle": "angle per step (radians)",
}
_DASHES = {"biases": ":", "gamma": "--", "beta": "-.", "embeddings": (0, (1, 3))}  # others are weights, solid


class InvarianceDisplay(Display):
    """Which rescalings leave the network's function as it is?

    A row per rescaling of a group of parameters: the largest change of an output, in its standard deviations. Where
    it is below the line, L2 can shrink the group for free.

    Parameters
    ----------
    invariances : DataFrame
        `change` and `invariant`, what theory says (None where it says nothing), a row per rescaling.
    threshold : float
        A smaller change is none.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    points_ : dict of str to Line2D
        By what theory says: "invariant", "changes", "not covered".
    threshold_ : Line2D

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, InvarianceDisplay, diagnose
    >>> X, y = load_iris(return_X_y=True)
    >>> net = BNMLPClassifier((8,), random_state=0).fit(X, y)
    >>> InvarianceDisplay.from_diagnosis(diagnose(net, X)).frame()["invariant"].tolist()
    [True, False, False, True, False]
    """

    def __init__(self, invariances, *, threshold):
        self.invariances = invariances
        self.threshold = threshold
        self.width = max(self.width, 2.6 + 0.09 * max(map(len, "\n".join(self._names()).split("\n"))))

    @classmethod
    def from_diagnosis(cls, diagnosis, *, ax=None):
        """Which rescalings leave the function of a diagnosed network as it is?

        Parameters
        ----------
        diagnosis : Diagnosis
        ax : Axes, default=None

        Returns
        -------
        InvarianceDisplay
        """
        check_kind(diagnosis, "diagnosis", "Diagnosis", hasattr(diagnosis, "invariances"))
        return cls(diagnosis.invariances, threshold=diagnosis.threshold).plot(ax)

    def frame(self):
        """Return the plotted changes, a row per rescaling."""
        return self.invariances.copy()

    def _draw(self, ax, ink):
        from matplotlib.ticker import LogLocator

        rows = np.arange(len(self.invariances))
        change = np.maximum(self.invariances["change"].to_numpy(), _FLOOR)
        said = self.invariances["invariant"].map({True: "invariant", False: "changes"}).fillna("not covered")
        self.threshold_ = ax.axvline(self.threshold, color=ink, linestyle="--", linewidth=1)
        # a line to each point, as the eye does not find its row over so wide an axis
        ax.hlines(rows, change.min(), change, color=ink, alpha=0.15)
        self.points_ = {}
        for word, colour, marker in zip(("invariant", "changes", "not covered"), COLOURS, "osD", strict=False):
            # shape and colour: either alone is lost on some reader
            of = (said == word).to_numpy()
            if of.any():
                (self.points_[word],) = ax.plot(change[of], rows[of], marker, color=colour, label=f"theory: {word}")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_yticks(rows, self._names())
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(
            f"largest change of an output,\nin standard deviations\nlogarithmic; dashed: {self.threshold:g}",
            loc="left",
            multialignment="left",
        )
        self._legend(ax)
        return 1.5 + 0.4 * len(rows) + 0.2 * len(self.points_)

    def _names(self):
        """Return the names of the rescalings, those of two parts in two lines."""
        return [name.replace(", ", ",\n") for name in self.invariances.index]


class NormTrajectoryDisplay(Display):
    """How did norms, or the rotation of the weights, move in training?

    Parameters
    ----------
    trajectory : DataFrame
        As `Diagnosis.trajectory`.
    quantity : {"norm", "effective_rate", "angle"}
        "norm" has a line per layer and role; the others have one per hidden layer that batch norm follows, of its
        median unit, "angle" with dashes where learning rate and L2 lead all layers to.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    lines_ : dict of str to Line2D
    equilibrium_ : Line2D or None

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, NormRecorder, NormTrajectoryDisplay, diagnose
    >>> X, y = load_iris(return_X_y=True)
    >>> net = BNMLPClassifier((8,), max_iter=5, callbacks=[NormRecorder()], random_state=0).fit(X, y)
    >>> display = NormTrajectoryDisplay.from_diagnosis(diagnose(net, X), quantity="angle")
    >>> list(display.lines_), len(display.frame())
    (['layer 1'], 5)
    """

    def __init__(self, trajectory, *, quantity):
        self.trajectory = trajectory
        self.quantity = quantity

    @classmethod
    def from_diagnosis(cls, diagnosis, *, quantity="norm", ax=None):
        """How did norms or rotation move in the training of a diagnosed network?

        Parameters
        ----------
        diagnosis : Diagnosis
            Of a network that was trained with a `NormRecorder`.
        quantity : {"norm", "effective_rate", "angle"}, default="norm"
        ax : Axes, default=None

        Returns
        -------
        NormTrajectoryDisplay

        Raises
        ------
        ValueError
            If nothing was recorded, or the quantity is not one of these or does not exist without batch norm.
        """
        check_kind(diagnosis, "diagnosis", "Diagnosis", hasattr(diagnosis, "trajectory"))
        if diagnosis.trajectory is None:
            raise ValueError("diagnosis.trajectory is None: train the network with callbacks=[NormRecorder()].")
        known = [name for name in _QUANTITIES if diagnosis.trajectory[name].notna().any()]
        if not isinstance(quantity, str) or quantity not in known:
            raise ValueError(f"quantity must be one of {known} for this network, got {quantity!r}.")
        columns = ["epoch", "layer", "role", quantity] + (["equilibrium_angle"] if quantity == "angle" else [])
        return cls(diagnosis.trajectory[columns].dropna(subset=quantity), quantity=quantity).plot(ax)

    def frame(self):
        """Return the plotted values, a row per epoch and line."""
        return self.trajectory.copy()

    def _draw(self, ax, ink):
        self.lines_ = {}
        for (layer, role), path in self.trajectory.groupby(["layer", "role"], sort=False):
            name = f"{role.replace('_', ' ')} {layer}" if self.quantity == "norm" else f"layer {layer}"
            style = {"color": COLOURS[(layer - 1) % len(COLOURS)], "linestyle": _DASHES.get(role, "-")}
            (self.lines_[name],) = ax.plot(path["epoch"], path[self.quantity], label=name, **style)
        self.equilibrium_ = None
        if self.quantity == "angle" and path["equilibrium_angle"].notna().any():
            dashed = {"color": ink, "linestyle": "--", "label": "equilibrium"}  # the same for every layer
            (self.equilibrium_,) = ax.plot(path["epoch"], path["equilibrium_angle"], **dashed)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{_QUANTITIES[self.quantity]}\n(logarithmic)")
        self._legend(ax, ncols=2, columnspacing=1, handlelength=1.6)
        return 2.8 + 0.22 * -(-(len(self.lines_) + 1) // 2)
