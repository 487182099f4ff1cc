"""``python -m sk_bnreg`` is the command ``sk-bnreg``."""

import sys


def main() -> None:
    """Run the command, or say which packages it needs beyond those of the estimators."""
    try:
        from sk_bnreg.cli.main import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"The command needs {error.name}, which is not installed: pip install 'sk_bnreg[study,optuna]'")
    run()


if __name__ == "__main__":
    main()
