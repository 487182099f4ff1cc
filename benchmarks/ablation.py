"""What does each of the defaults contribute, and what would other choices change?

The tables and the kind of splits of accuracy.py; every variant differs from the defaults in the one thing that it is
named after. One line per table, split and variant is added to a .jsonl file, as there; splits from 10 on are none that
accuracy.py reports on.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py run DIR ablation.jsonl [--variants ...] [--splits 10] [--rows 200]
    python benchmarks/ablation.py write ablation.jsonl docs/accuracy.md
"""

import argparse
import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accuracy import N_ROWS, fill, half_of, make_model, measure, prepare, read
from scipy.special import softmax
from sklearn.base import clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PowerTransformer, QuantileTransformer, StandardScaler
from skorch.callbacks import Callback
from skrub import StringEncoder

from sk_bnreg.engine import embedding, training
from sk_bnreg.engine.dropout import Dropout
from sk_bnreg.engine.embedding import embeddings_in_turn
from sk_bnreg.engine.functions import ACTIVATIONS, Activation, StackedLoss
from sk_bnreg.engine.solvers import StackedAdam
from sk_bnreg.engine.stack import StackedMLP
from sk_bnreg.estimators.base import BaseBNMLP


def network_with(**params):
    return lambda model: model.set_params(**{f"{model.steps[-1][0]}__{name}": value for name, value in params.items()})


def before_network(step, replaced=None):
    """Put a step before the network, in place of another one."""

    def change(model):
        steps = [(name, old) for name, old in model.steps[:-1] if name != replaced]
        return Pipeline([*steps, ("step", step), model.steps[-1]])

    return change


def target_by(transformer):
    """Have a regressor learn a transformed target."""

    def change(model):
        *steps, (name, network) = model.steps
        if is_classifier(network):
            return model
        return Pipeline([*steps, (name, TransformedTargetRegressor(network, transformer=clone(transformer)))])

    return change


def words_by_letters(model):
    """Encode columns of more than 16 categories by the letters of their words, in place of a column each up to 40."""
    return model.set_params(
        tablevectorizer__cardinality_threshold=16, tablevectorizer__high_cardinality=StringEncoder(n_components=8)
    )


class Smoothed(StackedLoss):
    """Label smoothing of 0.1 in the gradient, and so in what is learned."""

    def gradient(self, outputs, target):
        gradient = super().gradient(outputs, target)
        if self.kind == "squared":
            return gradient
        n_classes = 2 if self.kind == "binary" else outputs.shape[1]
        if self.kind == "binary":
            return gradient + 0.1 * (target - 1 / n_classes)
        is_target = torch.zeros_like(outputs).scatter_(1, target[:, None], 1.0)
        return gradient + 0.1 * (is_target - 1 / n_classes)


def four_cycles(schedule, peak, n_steps):
    """Four cycles of growing length (RealMLP's coslog4)."""
    step = np.arange(n_steps) / n_steps
    return peak / 2 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * step)))


def glorot_to_torch(reset):
    """Initialise the weights uniformly within 1 / sqrt(inputs), as torch does."""

    def reset_parameters(self, generators, starts):
        reset(self, generators, starts)
        for layer in self.layers(self.theta.data):
            n_out, n_in = layer.weight.shape[1:]
            layer.weight.mul_(((n_in + n_out) / (6 * n_in)) ** 0.5)

    return reset_parameters


def falling_dropout(draw):
    """Let the noise of dropout fall to nothing over the 60 epochs of 20 steps and more."""

    def drawn(self, n_rows):
        strength = max(0.0, 1 - self.step / 1200)
        return tuple(torch.lerp(torch.ones_like(mask), mask, strength) for mask in draw(self, n_rows))

    return drawn


def selu_backward(g, z, alpha=1.6732632423543772, scale=1.0507009873554805):  # Klambauer et al. 2017
    return scale * torch.where(z > 0, g, g * alpha * z.exp())


def in_place_of_relu(forward, backward):
    return patch.dict(ACTIVATIONS, relu=Activation(forward, lambda g, z, a: backward(g, z)))


class Recalibrated:
    """After a fit, take the running statistics over all training rows at once, with the final weights."""

    def __init__(self, fit):
        self.fit = fit

    def __get__(self, network, owner=None):
        def fit(X, y, **params):
            self.change(network, partial(self.fit, network, X, y, **params))
            module, seen, var_mean = network.net_.module_, [], torch.var_mean

            def remember(*args, **kwargs):
                seen.append(var_mean(*args, **kwargs))
                return seen[-1]

            x = torch.from_numpy(np.ascontiguousarray(np.asarray(X, np.float32).T))
            with torch.no_grad(), patch("torch.var_mean", remember):
                module.train(True)(x.expand(len(module.theta), -1, -1))
            module.running_var.copy_(torch.cat([var for var, _ in seen], 1) + module.normalisation.eps)
            module.running_mean.copy_(torch.cat([mean for _, mean in seen], 1))
            return network

        return fit

    def change(self, network, fit):
        fit()


class Averaged(Recalibrated):
    """And the weights are the mean over the last quarter of the epochs (Izmailov et al. 2018)."""

    def change(self, network, fit):
        kept = []

        class Keep(Callback):
            def on_epoch_end(self, net, **kwargs):
                kept.append(net.snapshot().module_.theta.data.clone())

        network.set_params(callbacks=[Keep()])
        fit()
        network.net_.module_.theta.data.copy_(torch.stack(kept[-len(kept) // 4 :]).mean(0))


def muon(adam):
    """Orthogonal steps for the hidden weights (Jordan et al. 2024), as long as Adam's (Liu et al. 2025)."""

    def update(self, grad, group):
        gradient = grad.clone()
        step = adam(self, grad, group)
        momentum = self.__dict__.setdefault("momentum", torch.zeros_like(gradient)).mul_(0.95).add_(gradient)
        gradient.add_(momentum, alpha=0.95)
        for block, view in self.stack.views(gradient).items():
            if block.role == "hidden_weights":
                x = view / view.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                step[:, block.start : block.stop] = -0.2 * max(view.shape[1:]) ** 0.5 * x.flatten(1)
        return step

    return update


def differing(members):
    """Let the networks differ in some parameters, beside the embeddings in which those of the defaults do."""
    return network_with(members=[embeddings_in_turn("auto", "auto", i) | params for i, params in enumerate(members)])


def mean_by(function):
    return patch("sk_bnreg.estimators.networks.mean_of_roots", function)


def same(model):
    return model


def make_variant(change, task, seed, categories):
    return change(make_model("sk_bnreg", task, seed, categories))


def variants():
    """Return, by name, what each variant is about, its change of the pipeline and its patches of the torch engine."""
    return {
        "defaults": ("", same, ()),
        "no embedding of numeric features": ("inputs", network_with(numeric_embedding=None), ()),
        "piecewise-linear embeddings for all networks": (
            "inputs", network_with(numeric_embedding="piecewise-linear"), ()
        ),
        "lines and cosines of 0.2 in turn": (
            "inputs",
            network_with(members=[{"numeric_embedding": form} for form in ("periodic", "piecewise-linear")] * 4),
            (),
        ),
        "two mixtures of the cosines": (
            "inputs", same, [patch(f"sk_bnreg.engine.{name}.SIZE", 2) for name in ("embedding", "roles", "stack")]
        ),
        "16 cosines or lines": ("inputs", same, [patch.object(embedding, "N_FUNCTIONS", 16)]),
        **{
            f"cosines of {scale} for all networks": (
                "inputs", network_with(numeric_embedding="periodic", frequency_init_scale=scale), ()
            )
            for scale in (0.1, 0.2, 0.5, 1.0)
        },
        "words of more than 16 kinds by their letters": ("inputs", words_by_letters, ()),
        "target by a power transform": ("target", target_by(PowerTransformer()), ()),
        "target by its quantiles": ("target", target_by(QuantileTransformer(output_distribution="normal")), ()),
        "standard instead of squashing scaler": ("inputs", before_network(StandardScaler(), "squashingscaler"), ()),
        **{
            f"networks that differ in {name}": ("ensemble", differing(params), ())
            for name, params in (
                ("batch norm", [{"batch_norm": i % 4 < 2} for i in range(8)]),
                ("L2", [{"l2": 3.0 ** (i % 3 - 1)} for i in range(8)]),
                ("learning rate", [{"learning_rate_init": 0.01 * 2.0 ** (i % 3 - 1)} for i in range(8)]),
                ("dropout", [{"dropout": 0.1 * (i % 3)} for i in range(8)]),
                ("depth", [{"hidden_layer_sizes": (64,) * (2 + i % 3)} for i in range(8)]),
            )
        },
        "plain mean of probabilities": ("probabilities", same, [mean_by(lambda p: p.mean(0))]),
        "geometric mean of probabilities": ("probabilities", same, [mean_by(lambda p: softmax(np.log(p).mean(0), -1))]),
        "one network": ("ensemble", network_with(n_ensemble=1), ()),
        "one network, last epoch": ("ensemble", network_with(n_ensemble=1, early_stopping=False), ()),
        "2 networks": ("ensemble", network_with(n_ensemble=2), ()),
        "4 networks": ("ensemble", network_with(n_ensemble=4), ()),
        "16 networks": ("ensemble", network_with(n_ensemble=16), ()),
        "no rows set aside, last epoch": ("stopping", network_with(early_stopping=False), ()),
        "a fifth of the rows set aside": ("stopping", network_with(validation_fraction=0.2), ()),
        "stop after 10 epochs without improvement": ("stopping", network_with(n_iter_no_change=10), ()),
        "no batch norm": ("network", network_with(batch_norm=False), ()),
        "batch-norm statistics over all rows at the end": (
            "network", same, [patch.object(BaseBNMLP, "fit", Recalibrated(BaseBNMLP.fit))]
        ),
        "mean of the weights of the last quarter": (
            "network", same, [patch.object(BaseBNMLP, "fit", Averaged(BaseBNMLP.fit))]
        ),
        "64-64": ("network", network_with(hidden_layer_sizes=(64, 64)), ()),
        "64-64-64-64": ("network", network_with(hidden_layer_sizes=(64, 64, 64, 64)), ()),
        "128-128": ("network", network_with(hidden_layer_sizes=(128, 128)), ()),
        "128-128-128": ("network", network_with(hidden_layer_sizes=(128, 128, 128)), ()),
        "gelu": ("network", network_with(activation="gelu"), ()),
        "silu": ("network", network_with(activation="silu"), ()),
        "mish": ("network", same, [in_place_of_relu(F.mish, torch.ops.aten.mish_backward)]),
        "selu": ("network", same, [in_place_of_relu(F.selu, selu_backward)]),
        "initial weights as torch's": (
            "network",
            same,
            [patch.object(StackedMLP, "reset_parameters", glorot_to_torch(StackedMLP.reset_parameters))],
        ),
        "no L2": ("regularization", network_with(l2=0.0), ()),
        "a third of the L2": ("regularization", network_with(l2=0.3), ()),
        "three times the L2": ("regularization", network_with(l2=3.0), ()),
        "L2 by a decay budget of 4": ("regularization", network_with(l2_budget=4.0), ()),
        "L2 on gamma and beta too": ("regularization", network_with(l2_targets="weights+gamma+beta"), ()),
        "L2 on all parameters": ("regularization", network_with(l2_targets="all"), ()),
        "dropout 0.1": ("regularization", network_with(dropout=0.1), ()),
        "dropout 0.1, falling": (
            "regularization", network_with(dropout=0.1), [patch.object(Dropout, "draw", falling_dropout(Dropout.draw))]
        ),
        "dropout 0.1, 100 epochs": ("regularization", network_with(dropout=0.1, max_iter=100), ()),
        "label smoothing 0.1": ("regularization", same, [patch("sk_bnreg.engine.tasks.StackedLoss", Smoothed)]),
        "learning rate 0.005": ("solver", network_with(learning_rate_init=0.005), ()),
        "learning rate 0.02": ("solver", network_with(learning_rate_init=0.02), ()),
        "cosine from 0.005": ("solver", network_with(learning_rate="cosine", learning_rate_init=0.005), ()),
        "four cycles": ("solver", same, [patch.object(training, "learning_rates", four_cycles)]),
        "beta_2 0.95": ("solver", network_with(beta_2=0.95), ()),
        "Muon": ("solver", same, [patch.object(StackedAdam, "_update", muon(StackedAdam._update))]),
        "30 epochs, 128-128, cosines of 0.2": (
            "solver",
            network_with(
                max_iter=30, hidden_layer_sizes=(128, 128), numeric_embedding="periodic", frequency_init_scale=0.2
            ),
            (),
        ),
        "30 epochs": ("solver", network_with(max_iter=30), ()),
        "100 epochs": ("solver", network_with(max_iter=100), ()),
        "batches of 200 for any number of rows": ("solver", network_with(batch_size=200), ()),
    }  # fmt: skip


def run(args):
    done = prepare(args.results)
    paths = [path for path in sorted(args.folder.glob("*.parquet")) if has_rows_of_each_class(path, args.rows)]
    for seed in args.splits:
        for name in args.variants or variants():
            about, change, patches = variants()[name]
            by_torch = patches and about != "probabilities"
            with ExitStack() as stack:
                for each in [
                    *patches,
                    *([patch("sk_bnreg.engine.tasks.has_kernel", lambda: False)] if by_torch else []),
                ]:
                    stack.enter_context(each)
                for path in paths:
                    if (path.stem, seed, name, args.rows) not in done:
                        row = measure(path, seed, name, partial(make_variant, change), n_rows=args.rows)
                        with args.results.open("a") as file:
                            file.write(json.dumps(row) + "\n")
            print(seed, name, flush=True)


def has_rows_of_each_class(path, n_rows):
    """Tell whether a sample of so many rows has some five or more of the rarest class."""
    target = pd.read_parquet(path, columns=["target"])["target"]
    return pd.api.types.is_float_dtype(target) or target.value_counts(normalize=True).min() * n_rows >= 5


def write(args):
    """Write what the variants measured, each against the defaults on the same splits."""
    every = read(args.results)
    table, means = compared(every[every["rows"] == N_ROWS])
    chosen = [
        f"The best on half {a} is {means[a].idxmax()} ({means[a].max():+.4f}); on half {b} it makes "
        f"{means[b][means[a].idxmax()]:+.4f}."
        for a, b in ("AB", "BA")
    ]
    fill(args.page, "ablation", "\n\n".join([table.to_markdown(index=False, disable_numparse=True), *chosen]))
    small = [
        compared(part)[0].iloc[1:].drop(columns=["about", "half A", "half B"]).assign(rows=rows)
        for rows, part in every[every["rows"] < N_ROWS].groupby("rows")
    ]
    if small:
        table = pd.concat(small).set_index(["variant", "rows"]).sort_index().reset_index()
        fill(args.page, "small", table.to_markdown(index=False, disable_numparse=True), "ablation.py --rows")


def compared(frame):
    """Return a row for each variant that was fitted to all tables, and by half what it makes of the score."""
    n_tables = frame["table"].nunique()
    rows, means = [], {}
    for name, (subject, *_) in variants().items():
        pair = frame[frame["model"] == name].merge(
            frame[frame["model"] == "defaults"], on=["table", "split"], suffixes=("", " of defaults")
        )
        if pair["table"].nunique() < n_tables:
            continue
        own = (pair["score"] - pair["score of defaults"]).groupby(pair["table"]).mean()
        losses = pair.groupby("table")[["log_loss", "log_loss of defaults"]].mean()
        means[name] = own.groupby(half_of(own.index)).mean()
        rows.append(
            {
                "about": subject,
                "variant": name,
                "splits": pair["split"].nunique(),
                "score": f"{own.mean():+.4f} +- {own.sem():.4f}",
                **{f"half {half}": f"{means[name][half]:+.4f}" for half in "AB"},
                "better / worse": f"{(own > 0.002).sum()} / {(own < -0.002).sum()}",
                "log loss": f"x {(losses['log_loss'] / losses['log_loss of defaults']).median():.3f}",
                "calibration error": f"{pair['calibration_error'].mean():.4f}",
            }
        )
    defaults = frame.loc[frame["model"] == "defaults", "score"]
    rows[0] |= {"score": f"{defaults.mean():.4f}", "half A": "", "half B": ""}
    return pd.DataFrame(rows), pd.DataFrame(means).T


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    runs.add_argument("folder", type=Path)
    runs.add_argument("results", type=Path)
    runs.add_argument("--variants", nargs="+", choices=list(variants()))
    runs.add_argument("--splits", type=int, nargs="+", default=[10, 11])
    runs.add_argument("--rows", type=int, default=N_ROWS, help="for training, and as many to test; 5,000 by default")
    runs.set_defaults(function=run)
    writes = commands.add_parser("write")
    writes.add_argument("results", type=Path)
    writes.add_argument("page", type=Path)
    writes.set_defaults(function=write)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
