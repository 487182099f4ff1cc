"""The laws of tests/test_laws.py and tests/test_laws_of_studies.py, on random cases that the suite has not seen.

Each law is asked of 20,000 random tables and estimators, those about a study, a search or an export of 500. Prints how
many cases each was asked of and how many broke it, with the first that did.

    python benchmarks/laws.py [--share 1.0] [--only WORD ...]
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis.errors import HypothesisException

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--only", nargs="+", default=[""], help="laws with one of these words in their names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # settings without effect, few epochs
    everything = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("laws", max_examples=round(20_000 * args.share), **everything)
    settings.load_profile("laws")
    import test_laws
    import test_laws_of_studies

    print(f"{'law':<80}{'cases':>8}{'broken':>8}", flush=True)
    for module in (test_laws, test_laws_of_studies):
        for name, law in vars(module).items():
            if name.startswith("test_") and any(words in name for words in args.only):
                ask(name.removeprefix("test_").replace("_", " "), law)


def ask(name, law):
    """Ask a law of all its cases, also after one that broke it."""
    inner, n_cases, broken = law.hypothesis.inner_test, 0, []

    def counted(*arguments, **drawn):
        nonlocal n_cases
        try:
            inner(*arguments, **drawn)
        except HypothesisException:  # not a case
            raise
        except Exception as error:
            broken.append((drawn, error))
        n_cases += 1

    law.hypothesis.inner_test = counted
    law()
    print(f"{name:<80}{n_cases:>8,}{len(broken):>8}", flush=True)
    if broken:
        print(f"  {broken[0][0]}\n  {type(broken[0][1]).__name__}: {broken[0][1]}", flush=True)


if __name__ == "__main__":
    main()
