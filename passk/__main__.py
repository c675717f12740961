"""Entry point of `python -m passk` and of the console script `passk`."""

import sys


def main() -> int:
    """Answer a shell's completion request without Hydra; run any other command line."""
    if sys.argv[1:2] == ["__complete"]:
        from passk.cli.completion import answer

        return answer(sys.argv[2:])
    from passk.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
