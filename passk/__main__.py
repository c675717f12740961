"""`python -m passk`, and where the console script `passk` enters."""

import sys


def main() -> int:
    """Answer the shell's question at once, without Hydra; run any other command line."""
    if sys.argv[1:2] == ["__complete"]:
        from passk.completion import answer

        return answer(sys.argv[2:])
    from passk import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
