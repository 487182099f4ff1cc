"""Write docs/theory.md and its figure from saved reproductions.

sk-bnreg reproduce --out docs/reproduce.json && python docs/theory.py
"""

import json
from pathlib import Path

from sk_bnreg.report.diagnosis_displays import COLOURS
from sk_bnreg.theory.finding import AS_PREDICTED, Finding, unexplained
from sk_bnreg.theory.reproduce import rate_decay_grid

DOCS = Path(__file__).parent


def main():
    draw(rate_decay_grid()).savefig(DOCS / "grid.svg")
    (DOCS / "theory.md").write_text(text((DOCS / "reproduce.json").read_text()))


def text(saved):
    """Return docs/theory.md for what `sk-bnreg reproduce` saved."""
    found = [
        Finding(**{k: v for k, v in one.items() if k not in ("value", "passed")} | {"measured": tuple(one["measured"])})
        for one in json.loads(saved)
    ]

    def value(key, start, digits=".2g"):
        (one,) = (f for f in found if f.key == key and f.quantity.startswith(start))
        return f"{one.value:{digits}}"

    def ratios(key, start, explaining=False):
        some = [f for f in found if f.key == key and f.quantity.startswith(start) and bool(f.explains) == explaining]
        low, high = (f"{extreme(f.value for f in some):.3f}" for extreme in (min, max))
        seeds = [x for f in some for x in f.measured]
        return f"{low} to {high} (single seeds {min(seeds):.3f} to {max(seeds):.3f})"

    def extremes(key, start):
        values = [f.value for f in found if f.key == key and f.quantity.startswith(start)]
        return f"{min(values):.2f} to {max(values):.2f}"

    def met(some):
        return f"{sum(f.passed for f in some)} of {len(some)}"

    same, again = (f for f in found if f.key == "R8")
    ran, computed = ([f for f in found if (f.origin == "run") == run] for run in (True, False))
    judged = [f for f in ran if f.passed is not None]
    sources = dict.fromkeys(f.source.split(";")[0] for f in found if not f.source.startswith("derived"))
    return TEXT.format(
        equal=value("R1", "largest"),
        control=value("R1", "the same"),
        growth=value("R1", "growth", ".4f"),
        sgd=ratios("R2", "angle / predicted"),
        adamw=ratios("R3", "angle / predicted"),
        adamw_norm=ratios("R3", "norm / predicted"),
        adam=ratios("R4", "angle / predicted"),
        spread=value("R4", "angles of units, 90 % quantile / 10 %, layer 2"),
        invariant=value("R5", "largest change"),
        changes=value("R5", "smallest"),
        no_mlp=value("R6", "tuned weight decays of 0, MLPs", ".0f"),
        no_resnet=value("R6", "tuned weight decays of 0, ResNets", ".0f"),
        p_value=value("R6", "Fisher"),
        budget=value("R6", "largest decay budget"),
        traded=value("R7", "largest"),
        same_product=value("R7", "standard deviation of the log loss over lr, "),
        same_rate=value("R7", "standard deviation of the log loss over lr * l2"),
        same_gap=f"{same.value:.3f}",
        same_interval="{:.3f} to {:.3f}".format(*same.interval),
        again_gap=f"{again.value:.3f}",
        again_interval="{:.3f} to {:.3f}".format(*again.interval),
        sgd_explained=ratios("R2", "norm / predicted", True),
        gap=_gap(same, again),
        shared_sgd=extremes("R2", "growth from what"),
        own=extremes("R3", "growth from each"),
        shared=extremes("R3", "growth from what"),
        along=extremes("R3", "growth from gradients, divided"),
        copies=extremes("R3", "norms with 16 copies"),
        adam_norm=ratios("R4", "norm / predicted"),
        sgd_norm=ratios("R2", "norm / predicted"),
        adamw_spread=value("R3", "angles of units, 90 % quantile / 10 %, layer 2, lr 0.003"),
        band="{:g} to {:g}".format(*AS_PREDICTED),
        n_met=met([f for f in judged if not f.explains]),
        n_explaining=met([f for f in judged if f.explains]),
        n_computed=met([f for f in computed if f.passed is not None]),
        missed="\n".join(_missed(found)),
        ran=_table(ran),
        computed=_table(computed),
        sources="\n".join(f"* {source}" for source in sources),
    )


def _gap(same, again):
    """Say in words what the two intervals of R8 allow."""
    low, high = again.interval
    if high < same.value:
        return "So part of the gap or all of it closed"
    if low > 0:
        return "So a gap was left"
    return "These folds do not tell whether the gap closes: the second interval holds 0 and the first figure"


def _missed(found):
    """Return a line for each figure outside its bounds, with the one that explains it."""
    explaining = {(f.key, f.explains): f for f in found if f.explains}
    left = unexplained(found)
    for f in found:
        if f.passed is False:
            why = explaining.get((f.key, f.quantity))
            told = "not known why" if f in left else f"{why.value:.3f} with the gradients as measured"
            yield f"* {f.key}, {f.quantity}: {f.value:.3f}; {told}"


def _table(found):
    """Return the findings as a table; a claim stands at its first figure."""
    rows = ["| | claim | figure | measured | predicted | allowed |", "|---|---|---|---|---|---|"]
    claim = ""
    for f in found:
        spread = f" [{min(f.measured):.4g}, {max(f.measured):.4g}], {f.judged} of {len(f.measured)}"
        cells = (
            f.key,
            "" if f.claim == claim else f.claim,
            f.quantity,
            f"{f.value:.4g}" + (spread if len(f.measured) > 1 else ""),
            "" if f.predicted is None else f"{f.predicted:g}",
            "" if f.passed is None else f.allowed + (": met" if f.passed else ": **missed**"),
        )
        claim = f.claim
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def draw(grid):
    """Draw the log losses over lr * l2, a line per learning rate, a dot per seed."""
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for colour, marker, (rate, part) in zip(COLOURS, "os^D", grid.groupby("rate"), strict=True):
        ax.plot(part["product"], part["log_loss"], marker, color=colour, alpha=0.4, markersize=4)
        middle = part.groupby("product")["log_loss"].median()
        ax.plot(middle.index, middle, color=colour, marker=marker, label=f"learning rate {rate:g}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    products = sorted(grid["product"].unique())
    ax.set_xticks(products, [f"{product:g}" for product in products])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:.2g}")
    ax.minorticks_off()
    ax.set_xlabel("learning rate x l2")
    ax.set_ylabel("log loss on held-out digits (logarithmic)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure


TEXT = """# Is L2 redundant beside batch norm? What theory says, run afresh

`sk-bnreg reproduce` runs the results below afresh, on the networks and solvers that your own fits use; the
numbers of this page come from its output (`docs/reproduce.json`). Of the figures that are judged and run on this
engine {n_met} are within their bounds. [What missed](#what-the-formulas-miss) is listed and explained. To see
which case is yours, `diagnose` measures it on your network.

## The short answer

* **L2 on the hidden weights** that batch norm follows cannot change which function is best. It sets how fast
  the weights turn: it is a learning rate. Whether a learning rate tuned without it gains as much is
  [another question](#then-what-does-dropping-it-cost).
* **L2 on all weights, but not on gamma and beta**, does not limit a ReLU network's function either: the scale
  that L2 takes from the output weights moves into the last gamma and beta.
* **L2 on the output weights and on the last gamma and beta** limits the function. Of the usual choices
  `l2_targets="weights+gamma+beta"` and `"all"` do.
* None of this says what your score does: [the survey](results.md), and `sk-bnreg compare` on yours.

## What batch norm takes from L2

Batch norm divides what a layer computes by its standard deviation. Three times the weights are three times
the standard deviation, and the factor is gone. ReLU lets a factor pass, relu(3 z) = 3 relu(z); so gamma and
beta of a layer can grow together, and the *next* batch norm takes that out again. Behind the last batch norm
stands the output layer: there gamma and beta can grow if the output weights shrink.

On fitted networks (digits, float64, `batch_norm_eps` of 1e-30, batch statistics) a factor of 3 changes no
output by more than {invariant} of its standard deviation where it should change nothing, and by at least
{changes} where it should change something: gamma alone, the last gamma and beta alone, the output weights
alone. (gamma alone of an earlier layer does something only as far as its beta is not 0.) The default
`batch_norm_eps` of 1e-5 lets some of the scale through, the more the smaller L2 makes the weights: `diagnose`
shows how much on yours.

L2 is *evaded* where such a change shrinks what it penalises and lets nothing penalised grow:

| `l2_targets`, batch norm, ReLU | hidden weights | output weights | last gamma, beta | earlier gamma, beta |
|---|---|---|---|---|
| `"weights"` | evaded | evaded | not penalised | not penalised |
| `"weights+gamma+beta"`, `"all"` | evaded | **limited** | **limited** | evaded |
| `("gamma", "beta")` | not penalised | not penalised | evaded | evaded |
| `"weights"`, no batch norm | **limited** | **limited** | | |

Where the limit holds, it is on the product: shrinking one side while the other grows costs nothing until both
are equally dear, so the joint penalty acts as one on ||(gamma, beta)|| ||output weights||.

## What is left: the pace

The gradient at weights whose scale does not matter is at right angles to them, and falls with their norm.
Each step therefore makes them longer, and longer weights turn more slowly; L2 makes them shorter again. So L2
on them is a matter of pace, and that is not a figure of speech:

* **It is a schedule of the learning rate.** SGD with weight decay and a constant rate, and SGD without decay
  at a rate that grows exponentially, make the same predictions: after 208 steps they differ by at most
  {equal}, while with neither decay nor growth the predictions differ by at least {control}. For the published
  setting the rate grows by {growth} an epoch; the paper has 1.481 (Li & Arora 2020).
* **A smaller decay can be traded for a larger rate.** (lr, l2, w) and (9 lr, l2 / 9, 3 w) of the hidden
  weights are the same training: predictions differ by {traded}.
* **There is an equilibrium**, where growth and decay balance and each step turns the weights by an angle for
  which learning rate and L2 give a formula. Measured over predicted, medians over units and 20 seeds, after 3,000
  steps: SGD {sgd}; AdamW {adamw}. Norms are shorter than their formulas say: SGD {sgd_norm}; AdamW {adamw_norm}.
* **Adam with L2 in the loss has no such common angle**: it depends on each unit's gradient. With that
  gradient measured over predicted is {adam}, of the norms {adam_norm}. In the second layer the 90 % quantile of
  the units' angles is {spread} times their 10 % quantile; with decoupled decay (the default here) at the same
  learning rate, {adamw_spread} times.

![Log loss on held-out digits over the product of learning rate and l2, a line per learning rate](grid.svg)

The digits, batch norm, AdamW, L2 on the hidden weights, constant rates, lr x l2 x steps of at least 5; dots
are seeds, all trained as one stack. Along a fixed product the log loss varies with a standard deviation of
{same_product}, across products, at one rate, of {same_rate}. Nothing says that it should be flat along the
product: gamma, beta and the output layer have no L2 here, and for them the learning rate counts by itself.

## What the formulas miss

Every predicted angle and norm is judged by one rule: {band} times the prediction. The formulas are of first
order, and no bound was found in what was read of their sources. An angle goes with the
root of lr x l2, so within 5 % it would show a rate or a decay that is wrong by 10 %. These are outside:

{missed}

The formulas take for granted that gradients do not depend on earlier ones, and for Adam also that g^2 / v is 1
on average and that g / sqrt(v) is at right angles to the weights. All three can be measured, in parts of the
growth of ||w||^2 that is predicted:

* What gradients share with earlier ones adds {shared} with AdamW: they point a little against those of the last
  steps, which takes back some of the way. With SGD it is {shared_sgd} of what each gradient adds by itself. In
  part that comes from batches drawn without replacement: with 16 copies of each row in the table, so that a batch
  says little about the next, AdamW's norms are {copies} times as long. Where the rest comes from is not known here.
* Each gradient by itself adds {own} with AdamW, where 1 is predicted. Why it is less is not known here.
* Gradients divided by sqrt(v) are not at right angles to the weights, and add {along}. This lengthens weights
  without turning them.

With these three in place of what is taken for granted all angles and norms are as predicted ({n_explaining}
within the same bounds), those of SGD too, which are within the bounds without it: {sgd_explained}. In an
equilibrium growth and decay have to balance, so that figures near 1 show only that nothing else is missing; the
sizes of the three are what was found. Angles of SGD need none of this: what gradients share shortens steps and
weights alike.

## Then what does dropping it cost?

On the digits, 10 folds, learning rate and L2 on the hidden weights tuned inside each: dropping L2 and keeping
its learning rate raised the log loss by {same_gap} (corrected 95 % interval {same_interval}). With the
learning rate tuned again without L2, by {again_gap} ({again_interval}). {gap}.
David Wu's blog post for Jane Street (2019, read in summaries) reports that it closes, for a ResNet on CIFAR-10.

## When L2 did nothing at all

The decay budget D, the sum of lr x l2 over the steps, says by how many e-folds decay alone would shrink a
weight. In the tuned configurations that Gorishniy et al. (2021) published for 11 data sets, the largest is D
= {budget}, a shrinkage by less than 1 %. Weight decay 0 was chosen for {no_mlp} of 11 MLPs without batch
norm and {no_resnet} of 11 ResNets with it (Fisher's exact p = {p_value}: a hint, and the two differ in more
than batch norm).

## How to see it on your network

```python
from sk_bnreg import BNMLPClassifier, NormRecorder, diagnose

net = BNMLPClassifier(callbacks=[NormRecorder()], random_state=0).fit(X, y)
print(diagnose(net, X))
```

`diagnose` scales the groups in the fitted network itself, says which L2 was evaded and what limits the
function, and, with a `NormRecorder`, how much the effective learning rate owes to L2. `InvarianceDisplay` and
`NormTrajectoryDisplay` draw it; the report of `sk-bnreg compare --out DIR` has it of the best model.

## Where this theory ends

* Without batch norm hidden weights are limited by L2 if all weights are penalised; ReLU only lets their scale
  wander between layers.
* tanh, GELU and SiLU let no factor pass: of gamma, beta and the output weights nothing follows. The hidden
  weights before a batch norm stay free of scale. `diagnose` says "not covered".
* A schedule that falls to 0 leaves the equilibrium; the angles then lag behind. A fit of a few hundred steps
  never gets there.
* That L2 cannot change the best function does not say that training finds it: the pace matters, and batch
  norm's own noise as well.

## All figures

Run on this engine: {n_met} judged figures are within their bounds, and {n_explaining} that explain one of them
("gradients as measured"). Figures without bounds are reported.

{ran}

Computed, not run: from the table of tuned configurations that Gorishniy et al. published (R6), and from a
formula alone (R1). Of those judged {n_computed} are within their bounds.

{computed}

## Sources

{sources}

Abstracts, and for the equilibrium formulas the code published with Kosson et al., were read, not every full
paper; the theorem of Li & Arora is used as it is restated elsewhere, and holds here to rounding. What is
called derived here was derived for this project and stands on the figures above."""


if __name__ == "__main__":
    main()
