"""Draw the README's picture from a saved comparison.

sk-bnreg compare --out DIR && python docs/picture.py DIR docs/digits.svg
"""

import sys

from sk_bnreg import SchemeComparison, SchemeComparisonDisplay


def main(folder, picture):
    comparison = SchemeComparison.load(folder)
    SchemeComparisonDisplay.from_comparison(comparison).figure_.savefig(picture)


if __name__ == "__main__":
    main(*sys.argv[1:3])
