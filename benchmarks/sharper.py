"""Would sharper statistics than the corrected t-test keep their 5 %?

learners: two learners of one kind that see exchangeable halves of the columns, as in calibration.py, on 250 rows, so
that every difference found is a false one on new data of this size. Five folds once, four and ten times;

    t       the corrected t-test, which the package uses;
    rows    an interval over rows (Bayle et al. 2020): by the variance of per-row differences in loss, pooled over the
            folds and averaged over the repeats;
    rho     the corrected t-test with a measured correlation of folds (Eve, Varoquaux & Moreau 2026) in place of 1 / k:
            rho_e / k, where rho_e is the mean correlation of per-row differences between two repeats;

each with its false positives at 5 %, the mean width of its interval as a share of the first's, and the true standard
deviation of the mean over samples as a multiple of what the method takes it for. "own" is how often the interval over
rows misses what it is said to cover, the difference of the five pairs of fitted models, told by fresh rows. The true
correlations of folds, in one repeat and between repeats, stand beside the measured ones. Then the same samples go, with
the corrected t-test, through the rule by which a study ends (at most ten repeats), for ropes in standard deviations of
a fold: how many say "helps" or "hurts", and how many a word that says there is no gain when the rope is added to all
differences (or no loss when it is subtracted).

prior: the other tables of a survey as a prior for each (empirical Bayes): a normal distribution with the mean and the
variance between tables by the method of moments (DerSimonian & Laird), times the t-shaped likelihood of the table.
Prints which words of the survey's tables change, and how many would be false: in simulated surveys whose true
differences come from the fitted prior, or from one with a standard deviation of 0.01; normal, with heavy tails (t with
3 degrees of freedom), or in two kinds (a fifth of the tables has most of the variance), the variance being the same;
"at the edge" is a table whose truth is the rope, or minus the rope, beside 23 such others.

    python benchmarks/sharper.py learners [--samples 1000] [--only network ...] [--jobs 1]
    python benchmarks/sharper.py prior docs/survey_single.parquet [--surveys 1000]
"""

import argparse
from collections import Counter
from itertools import product

import joblib
import numpy as np
import torch
from calibration import N_COLUMNS, ended, exchangeable_halves, looks_at, of, study_by_study
from scipy import special, stats
from sklearn import config_context
from sklearn.base import is_classifier
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from statsmodels.stats.meta_analysis import combine_effects

from sk_bnreg import BNMLPClassifier
from sk_bnreg.stats.folds import CONFIDENCE, WORDS, contrast, standard_error
from sk_bnreg.study.questions import SURVEY_QUESTIONS
from sk_bnreg.study.survey import Survey

N_ROWS, N_FRESH, K = 250, 4000, 5
REPEATS = (1, 4, 10)
LEARNERS = {
    "decision tree": DecisionTreeClassifier(min_samples_leaf=5, random_state=0),
    "5 neighbours": KNeighborsClassifier(5),
    "regression tree": DecisionTreeRegressor(min_samples_leaf=5, random_state=0),
    "linear regression": LinearRegression(),
    "network": BNMLPClassifier((16,), max_iter=12, n_ensemble=4, numeric_embedding=None, random_state=0),
}
FALSE_AT = {  # words that are false where the truth is the rope, and minus the rope
    1: ("redundant", "dispensable", "hurts"),
    -1: ("redundant", "harmless", "helps"),
}
CLAIMS = {  # false words by the truth, in ropes
    "helps or hurts, truth 0": {0: ("helps", "hurts")},
    "no gain at the rope, or no loss": FALSE_AT,
    "beyond the rope where it is at it": {1: ("helps",), -1: ("hurts",)},
}
LOOK_ROPES = (0.1, 0.3, 1.0, 3.0)
LOSSES = {True: ("accuracy", "squared probability"), False: ("squared error",)}  # by whether it is a classifier
QUESTIONS = [SURVEY_QUESTIONS[i] for i in (0, 4, 6)]  # those that `sk-bnreg compare` asks
NAMES = list(WORDS)
KINDS, SHARES = ("normal", "heavy tails", "two kinds"), ("all", "said", "edge")


def draw_numbers(rng, n_rows):
    """Two halves of columns that add up to the target, in the same way."""
    X = rng.standard_normal((n_rows, 2 * N_COLUMNS))
    halves = X[:, :N_COLUMNS], X[:, N_COLUMNS:]
    return X, sum(half[:, 0] + np.abs(half[:, 1]) for half in halves) + rng.standard_normal(n_rows)


def row_losses(fitted, X, y):
    """Losses (losses, rows)."""
    if not is_classifier(fitted):
        return (fitted.predict(X) - y)[None] ** 2
    probability = fitted.predict_proba(X)[:, 1]
    return np.array([(probability > 0.5) != y, (probability - y) ** 2], float)


def one_sample(learner, draw, seed):
    """Per-row differences in loss (losses, repeats, rows), the fold of each, and those of fresh rows (losses, rows)."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    (X, y), (X_fresh, y_fresh) = draw(rng, N_ROWS), draw(rng, N_FRESH)
    kind = RepeatedStratifiedKFold if is_classifier(learner) else RepeatedKFold
    splits = list(kind(n_splits=K, n_repeats=REPEATS[-1], random_state=seed).split(X, y))
    n_losses = len(LOSSES[is_classifier(learner)])
    rows, folds = np.zeros((n_losses, REPEATS[-1], N_ROWS)), np.zeros((REPEATS[-1], N_ROWS), int)
    fresh = np.zeros((n_losses, N_FRESH))
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for i, (train, test) in enumerate(splits):
            repeat, fold = divmod(i, K)
            folds[repeat, test] = fold
            for sign, columns in ((-1, slice(N_COLUMNS)), (1, slice(N_COLUMNS, None))):
                learner.fit(X[train, columns], y[train])
                rows[:, repeat, test] += sign * row_losses(learner, X[test, columns], y[test])
                if repeat == 0:
                    fresh += sign * row_losses(learner, X_fresh[:, columns], y_fresh) / K
    return rows, folds, fresh


def intervals(rows, folds):
    """Mean difference, then standard error and half-width by each method, of differences (repeats, rows)."""
    n_repeats = len(rows)
    d = np.array([row[fold == i].mean() for row, fold in zip(rows, folds, strict=True) for i in range(K)])
    quantile = stats.t.ppf(0.975, len(d) - 1)
    found = {"t": d.std(ddof=1) * standard_error(len(d), 1 / (K - 1))}
    ours = contrast(d, test_ratio=1 / (K - 1), rope=1.0)
    assert np.isclose(ours.high - ours.mean, quantile * found["t"])
    over_rows = rows.mean(axis=0)
    found["rows"] = over_rows.std(ddof=1) / np.sqrt(over_rows.size)
    rho_e = np.nan
    if n_repeats > 1:
        rho_e = max(0.0, np.corrcoef(rows)[np.triu_indices(n_repeats, 1)].mean())
        # the correction's n_test / n_train is rho / (1 - rho) for the correlation rho = n_test / n
        found["rho"] = d.std(ddof=1) * standard_error(len(d), rho_e / K / (1 - rho_e / K))
    return (
        d,
        rho_e,
        {name: (se, se * (stats.norm.ppf(0.975) if name == "rows" else quantile)) for name, se in found.items()},
    )


def fold_correlations(d):
    """Correlations of folds (samples, repeats, folds) whose mean is known to be 0: in a repeat, and between two."""
    _, n_repeats, k = d.shape
    square, in_repeat, in_all = (d**2).mean(), (d.sum(axis=2) ** 2).mean(), (d.sum(axis=(1, 2)) ** 2).mean()
    within = (in_repeat / k - square) / (k - 1) / square
    if n_repeats == 1:
        return within, np.nan
    return within, (in_all - n_repeats * in_repeat) / (n_repeats * (n_repeats - 1) * k**2) / square


def tell_looks(differences):
    """Count false words at the end of studies, of differences (samples, repeats, folds) whose mean is known to be 0."""
    n, most, _ = differences.shape
    print("  with looks, ropes " + ", ".join(f"{rope:g}" for rope in LOOK_ROPES))
    for claim, false_at in CLAIMS.items():
        cells = []
        for rope in np.multiply(LOOK_ROPES, differences.std()):
            false = 0
            for side, names in false_at.items():
                d = differences + side * rope
                word, is_settled = looks_at(d[:, None], rope)
                end, _ = ended(word, is_settled[:, 0], most)
                assert study_by_study(d[:1], rope, most)[0] == end[0]
                false += np.isin(end, [NAMES.index(name) for name in names]).sum()
            cells.append(of(false, n * len(false_at)))  # a sample is hardly ever false on both sides
        print(f"  {claim:<36}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def with_learners(names, n_samples, n_jobs):
    draws = {True: exchangeable_halves(), False: draw_numbers}
    print(f"{n_samples} samples of {N_ROWS} rows: false positives, % [95 % interval]; width; true sd / estimated sd")
    head = "".join(f"{name:^33}" for name in ("t", "rows", "rho"))
    print(f"{'folds':<8}{head}{'own':^17}rho_e / k, true correlation in a repeat, between repeats")
    for name in names:
        learner = LEARNERS[name]
        jobs = (joblib.delayed(one_sample)(learner, draws[is_classifier(learner)], seed) for seed in range(n_samples))
        samples = joblib.Parallel(n_jobs=n_jobs)(jobs)
        for loss, title in enumerate(LOSSES[is_classifier(learner)]):
            print(f"{name}, {title}")
            for n_repeats in REPEATS:
                found = [intervals(rows[loss, :n_repeats], folds[:n_repeats]) for rows, folds, _ in samples]
                differences = np.array([d for d, *_ in found])
                means = differences.mean(axis=1)
                widths = np.mean([by["t"][1] for *_, by in found])
                line = f"{K}x{n_repeats:<6}"
                for method in found[0][2]:
                    se, half = np.array([by[method] for *_, by in found]).T
                    sd = np.sqrt((means**2).mean() / (se**2).mean())
                    line += f"{of((np.abs(means) > half).sum(), n_samples):>18}{half.mean() / widths:7.2f}{sd:6.2f}  "
                line = f"{line:<107}"
                if n_repeats == 1:
                    missed = [
                        np.abs(d.mean() - fresh[loss].mean())
                        / np.hypot(by["rows"][0], fresh[loss].std() / np.sqrt(N_FRESH))
                        for (d, _, by), (*_, fresh) in zip(found, samples, strict=True)
                    ]
                    line += of((np.array(missed) > stats.norm.ppf(0.975)).sum(), n_samples)
                within, between = fold_correlations(differences.reshape(n_samples, n_repeats, K))
                measured = np.mean([rho_e for _, rho_e, _ in found]) / K
                print(f"{line:<124}{measured:6.2f}{within:6.2f}{between:6.2f}", flush=True)
            tell_looks(differences.reshape(n_samples, n_repeats, K))


def normal_priors(means, variances):
    """For tables (surveys, tables), mean and sd of the normal prior by all others, by the method of moments."""
    others = ~np.eye(means.shape[1], dtype=bool)
    m, v = (np.where(others, values[:, None, :], np.nan) for values in (means, variances))  # (surveys, table, others)
    weight = 1 / v
    total = np.nansum(weight, axis=2)
    fixed = np.nansum(weight * m, axis=2) / total
    q = np.nansum(weight * (m - fixed[..., None]) ** 2, axis=2)
    scale = total - np.nansum(weight**2, axis=2) / total
    between = np.maximum(0, (q - (means.shape[1] - 2)) / scale)
    weight = 1 / (v + between[..., None])
    return np.nansum(weight * m, axis=2) / np.nansum(weight, axis=2), np.sqrt(between)


def check_priors(means, variances):
    found = normal_priors(means[None], variances[None])
    for i, (mean, sd) in enumerate(zip(*(each[0] for each in found), strict=True)):
        with np.errstate(invalid="ignore"):  # of a variance below 0, which is 0 here
            pooled = combine_effects(np.delete(means, i), np.delete(variances, i), method_re="dl")
        assert np.isclose(sd**2, max(0, pooled.tau2))
        assert np.isclose(mean, pooled.mean_effect_re if sd else pooled.mean_effect_fe)


def words(p_worse, p_better):
    """The place in `WORDS` of what these probabilities say."""
    gainless, lossless = 1 - p_better > CONFIDENCE, 1 - p_worse > CONFIDENCE
    return np.select(
        [p_better > CONFIDENCE, p_worse > CONFIDENCE, gainless & lossless, gainless, lossless], range(5), 5
    )


def said(means, scales, df, rope, shrunk):
    """The words of tables (surveys, tables), each by itself or with the others as its prior."""
    if not shrunk:
        return words(*(special.stdtr(df, (-rope - sign * means) / scales) for sign in (1, -1)))
    prior_mean, prior_sd = normal_priors(means, scales**2)
    prior_sd = np.maximum(prior_sd, 1e-6)
    # the posterior on quantiles of the prior, each of which has the same mass
    at = prior_mean[..., None] + prior_sd[..., None] * stats.norm.ppf((np.arange(400) + 0.5) / 400)
    likelihood = (1 + ((means[..., None] - at) / scales[..., None]) ** 2 / df) ** (-(df + 1) / 2)
    total = likelihood.sum(axis=2)
    return words((likelihood * (at < -rope)).sum(axis=2) / total, (likelihood * (at > rope)).sum(axis=2) / total)


def truths(rng, kind, mean, sd, shape):
    if kind == "normal":
        return mean + sd * rng.standard_normal(shape)
    if kind == "heavy tails":
        return mean + sd * rng.standard_t(3, shape) / np.sqrt(3)
    wide = rng.random(shape) < 0.2  # .8 * .1 + .2 * 4.6 = 1
    return mean + sd * rng.standard_normal(shape) * np.sqrt(np.where(wide, 4.6, 0.1))


def false_shares(truth, word, rope):
    """Which words are false."""
    wrong = [
        truth <= rope,
        truth >= -rope,
        np.abs(truth) >= rope,
        truth >= rope,
        truth <= -rope,
        np.zeros_like(truth, bool),
    ]
    return np.choose(word, wrong)


def simulated(rng, kind, prior, sds, rope, n_surveys):
    """Shares of false words without and with the prior: of all, of those said, and at the edge."""
    truth = truths(rng, kind, *prior, (n_surveys, len(sds)))
    edge = np.zeros(truth.shape, int)
    edge[:, 0] = rng.choice([1, -1], n_surveys)  # the first table, of which the sd is drawn anew below
    sds = rng.permuted(np.tile(sds, (n_surveys, 1)), axis=1)
    noise = rng.standard_normal((*truth.shape, K)) + np.sqrt(1 / (K - 1)) * rng.standard_normal((*truth.shape, 1))
    found = {}
    for name, at in (("drawn", truth), ("edge", np.where(edge, edge * rope, truth))):
        d = at[..., None] + sds[..., None] * noise
        means, scales = d.mean(axis=2), d.std(axis=2, ddof=1) * standard_error(K, 1 / (K - 1))
        for shrunk in (False, True):
            word = said(means, scales, K - 1, rope, shrunk)
            if name == "drawn":
                false = false_shares(at, word, rope)
                spoken = word < len(NAMES) - 1
                found["all", shrunk], found["said", shrunk] = (false.sum(), false.size), (false.sum(), spoken.sum())
            else:
                at_edge = [
                    np.isin(word[edge == side], [NAMES.index(w) for w in FALSE_AT[side]]).sum() for side in FALSE_AT
                ]
                found["edge", shrunk] = sum(at_edge), n_surveys
    return found


def tell_words(title, word):
    print(f"{title:<16}" + ", ".join(f"{name} {n}" for i, name in enumerate(NAMES) if (n := (word == i).sum())))


def with_prior(path, n_surveys):
    survey, rng = Survey.load(path), np.random.default_rng(0)
    comparisons = [survey.comparison(table) for table in survey.tables().index]
    for question in QUESTIONS:
        contrasts = [c.contrast(question.scheme, question.against) for c in comparisons]
        means, scales, sds = (np.array([getattr(c, name) for c in contrasts]) for name in ("mean", "scale", "sd"))
        alone, shrunk = (said(means[None], scales[None], K - 1, survey.rope, with_it)[0] for with_it in (False, True))
        assert [NAMES[i] for i in alone] == [c.verdict for c in contrasts]
        check_priors(means, scales**2)
        # a further table, whose others are all of these
        mean, sd = (found[0, -1] for found in normal_priors(np.append(means, 0)[None], np.append(scales**2, 1)[None]))
        print(f"\n{question.subject}, given {question.given}: mean {mean:+.4f}, sd between tables {sd:.4f}")
        tell_words("alone", alone)
        tell_words("with the prior", shrunk)
        changed = Counter(f"{NAMES[a]} -> {NAMES[b]}" for a, b in zip(alone, shrunk, strict=True) if a != b)
        print(f"{changed.total()} words change: " + ", ".join(f"{each} {n}" for each, n in changed.most_common()))
        print(f"{'false, %: alone; with the prior':<30}{'of all':^34}{'of those said':^34}{'at the edge':^34}")
        for true_sd, kind in product((sd, 0.01), KINDS):
            found = simulated(rng, kind, (mean, true_sd), sds, survey.rope, n_surveys)
            cells = ["; ".join(of(*found[share, with_it]) for with_it in (False, True)) for share in SHARES]
            print(f"{f'{kind}, sd {true_sd:.4f}':<30}" + "".join(f"{cell:^34}" for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    learners = parts.add_parser("learners")
    learners.add_argument("--samples", type=int, default=1000)
    learners.add_argument("--only", nargs="+", choices=LEARNERS, default=LEARNERS)
    learners.add_argument("--jobs", type=int, default=1)
    prior = parts.add_parser("prior")
    prior.add_argument("survey")
    prior.add_argument("--surveys", type=int, default=1000)
    args = parser.parse_args()
    if args.part == "learners":
        with_learners(args.only, args.samples, args.jobs)
    else:
        with_prior(args.survey, args.surveys)


if __name__ == "__main__":
    main()
