"""``python -m sk_bnreg`` is the command ``sk-bnreg``."""

from sk_bnreg.cli.main import main

if __name__ == "__main__":
    main()
