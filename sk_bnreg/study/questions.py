"""What a survey asks, and the schemes that answer it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sk_bnreg.engine.roles import HIDDEN_WEIGHTS
from sk_bnreg.study.schemes import SCHEMES, Question, TunedL2, checked_schemes

FIXED = ", fixed rate"  # ends the names of schemes that keep the learning rate

# in each, one thing differs between the two schemes; Holm's method pays for every question asked
SURVEY_QUESTIONS = (
    Question("L2 on the weights", "batch norm", "bn+l2", "bn"),
    Question("L2 on the weights", "batch norm, at a fixed learning rate", "bn+l2" + FIXED, "bn" + FIXED),
    Question("L2 on the weights", "no batch norm", "l2", "plain"),
    Question("L2 on the weights", "no batch norm, at a fixed learning rate", "l2" + FIXED, "plain" + FIXED),
    Question("batch norm", "L2 on the weights", "bn+l2", "l2"),
    Question("batch norm", "no L2", "bn", "plain"),
    Question("L2 on gamma and beta", "batch norm and L2 on the weights", "bn+l2+gamma+beta", "bn+l2"),
    Question(
        "L2 on gamma and beta",
        "batch norm and L2 on the weights, at a fixed learning rate",
        "bn+l2+gamma+beta" + FIXED,
        "bn+l2" + FIXED,
    ),
    Question("L2 on the output weights", "batch norm and L2 on the hidden weights", "bn+l2", "bn+l2 on hidden weights"),
    Question(
        "L2 on the output weights",
        "batch norm and L2 on the hidden weights, gamma and beta",
        "bn+l2+gamma+beta",
        "bn+l2 on hidden weights, gamma, beta",
    ),
    Question("L2 on output biases and embeddings", "batch norm and L2 on all else", "bn+l2+all", "bn+l2+gamma+beta"),
    Question("L2 in the loss instead of decoupled", "batch norm", "bn+l2 (loss)", "bn+l2"),
    Question("L2 in the loss instead of decoupled", "no batch norm", "l2 (loss)", "l2"),
    Question("tuning L2 beside batch norm", "a fifth of what is best without it", "bn+l2", "bn+l2, a fifth"),
    Question("dropout", "batch norm and L2 on the weights", "bn+l2+dropout", "bn+l2"),
    Question("dropout", "neither batch norm nor L2", "dropout", "plain"),
    Question("L2 on the weights", "batch norm and dropout", "bn+l2+dropout", "bn+dropout"),
    Question("batch norm", "L2 and dropout", "bn+l2+dropout", "l2+dropout"),
)


def survey_schemes(learning_rate_init: float) -> dict[str, dict[str, Any]]:
    """Return the schemes of a survey.

    Parameters
    ----------
    learning_rate_init : float
        Of the schemes with a fixed rate; in the others it is tuned.

    Returns
    -------
    dict of str to dict
        Parameters of the network by name of the scheme.

    References
    ----------
    Ioffe & Szegedy 2015, "Batch normalization", arXiv:1502.03167; in section 4.2.1 they
    divide the L2 of their network by 5 when it gets batch norm: "bn+l2, a fifth".
    """
    names = ("plain", "l2", "bn", "bn+l2", "bn+l2+gamma+beta")
    hidden = {"batch_norm": True, "l2_targets": HIDDEN_WEIGHTS}
    return {
        **{name: SCHEMES[name] for name in (*names, "bn+l2+all", "l2 (loss)", "bn+l2 (loss)")},
        "bn+l2+gamma+beta (loss)": SCHEMES["bn+l2+gamma+beta (loss)"],
        "bn+l2 on hidden weights": hidden,
        "bn+l2 on hidden weights, gamma, beta": hidden | {"l2_targets": (*HIDDEN_WEIGHTS, "gamma", "beta")},
        "bn+l2, a fifth": SCHEMES["bn+l2"] | {"l2": TunedL2("l2", 0.2)},
        **{name: SCHEMES[name] for name in ("dropout", "l2+dropout", "bn+dropout", "bn+l2+dropout")},
        **{name + FIXED: SCHEMES[name] | {"learning_rate_init": learning_rate_init} for name in names},
    }


def chosen_schemes(names: Sequence[str] | None, learning_rate_init: float) -> dict[str, Mapping[str, Any]]:
    """Return some of the schemes of a survey, and of the built-in ones, by name; None is all of a survey.

    Raises
    ------
    ValueError
        If there is no such scheme, or they are too few for ranks, or answer no question of `SURVEY_QUESTIONS`.
    """
    own: dict[str, Mapping[str, Any]] = {**survey_schemes(learning_rate_init)}
    if names is None:
        return own
    known = SCHEMES | own
    if (
        isinstance(names, str)
        or getattr(names, "ndim", 1) != 1
        or not all(isinstance(name, str) and name in known for name in names)
    ):
        raise ValueError(f"schemes must be names from {list(known)}, got {names!r}.")
    if len(set(names)) < 3 or not asked_of(names):
        raise ValueError(
            "schemes must be at least 3, of which two answer a question, such as 'plain', 'bn' and 'bn+l2'; got "
            f"{list(names)}."
        )
    return checked_schemes({name: known[name] for name in names})


def asked_of(schemes: Sequence[str]) -> list[Question]:
    """Return those of `SURVEY_QUESTIONS` whose two schemes are among these."""
    return [question for question in SURVEY_QUESTIONS if {question.scheme, question.against} <= set(schemes)]
