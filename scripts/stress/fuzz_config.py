"""Throw random overrides at the configuration: each is taken, or refused in one sentence.

    python scripts/stress/fuzz_config.py [--examples 100000] [--seed 0] [--whole 1000]

Draws a command, some of its keys and a value for each: numbers at every edge, texts with signs of
Hydra's grammar, lists, nulls, other keys' values. An override goes through the command line's own
quoting and Hydra's parser into the composed configuration, which is then checked as before a run.
`--whole` of the examples are composed by Hydra itself, which takes a hundred times as long. Prints
what was taken and refused, and every word that ended otherwise; exit code 1 where there is one.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from passk.cli.main import REFUSED_BY_HYDRA, as_typed
from passk.config.compose import check_groups, explain, register, to_config
from passk.config.registry import SCHEMAS, conf_dir
from passk.errors import UserError

NEEDED = {
    "train": [],
    "export": ["run=."],
    "report": ["dirs=[.]"],
    "diagnose": [],
    "filter": ["run=."],
}
NUMBERS = (
    *("0", "-0", "1", "-1", "2", "3", "7", "64", "0.5", "1.0", "-0.5", "1e-9", "1e9", "1e-320"),
    *(
        "1e308",
        "1e309",
        "-1e309",
        "nan",
        "inf",
        "-inf",
        ".inf",
        "1_000",
        "007",
        "0x10",
        "1e",
        "1.",
        ".5",
    ),
    *(str(2**n + d) for n in (31, 32, 53, 63, 64) for d in (-1, 0, 1)),
    *("9" * 400, "-" + "9" * 400, "0." + "9" * 400, "1e400", "1e-400", "1/3", "50%", "١٢"),
)
WORDS = (
    "null",
    "true",
    "false",
    "auto",
    "tiny",
    "sft",
    "none",
    "None",
    "off",
    "yes",
    "''",
    '""',
    "???",
)
SIGNS = "ab0.\\\"'(){}[]#&~ ,=:;!<>é中\t\n$%*@?|+-/_1eE\0\u202e\ufeff🙂"


def any_value(draw: random.Random, depth: int = 0) -> str:
    """One value as somebody might type it."""
    kind = draw.randrange(6 if depth < 2 else 4)
    if kind == 0:
        return draw.choice(NUMBERS)
    if kind == 1:
        return draw.choice(WORDS)
    if kind == 2:
        return "".join(draw.choice(SIGNS) for _ in range(draw.randint(0, 8)))
    if kind == 3:
        number = draw.choice(("int", "float"))
        return str(draw.randint(-20, 5000)) if number == "int" else repr(draw.uniform(-2, 2))
    items = [any_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    return (
        f"[{','.join(items)}]"
        if kind == 4
        else f"{{{','.join(f'a{i}:{v}' for i, v in enumerate(items))}}}"
    )


def keys_of(node: DictConfig, prefix: str = "") -> list[str]:
    """Every key of a composed configuration, with those of its sections."""
    keys = []
    for name in node:
        key = f"{prefix}{name!s}"
        keys.append(key)
        if OmegaConf.is_dict(node._get_node(name)):
            keys += keys_of(node[name], f"{key}.")
    return keys


def overridden(composed: DictConfig, words: Sequence[str]) -> DictConfig:
    """The configuration with the overrides in place, as Hydra puts them there."""
    changed = deepcopy(composed)
    for override in OverridesParser.create().parse_overrides(list(words)):
        if override.is_sweep_override():
            raise HydraException(f"{override.input_line} is for a sweep")
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=True)
    return changed


def outcome(command: str, words: Sequence[str], base: DictConfig | None) -> str:
    """`taken`, `refused` or what went wrong, in words. Without a base Hydra composes the whole."""
    typed = [as_typed(command, word, is_sweep=False) for word in words]
    try:
        check_groups(command, typed)
        whole = [*NEEDED.get(command, []), *typed]
        to_config(overridden(base, typed) if base else compose(command, overrides=whole))
        return "taken"
    except UserError as error:
        sentence = str(error)
    except REFUSED_BY_HYDRA as error:
        sentence = explain(error, command)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "refused" if sentence.strip() else "no sentence"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the examples; 1 where one ended in anything but a configuration or a sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--whole", type=int, default=1_000, help="of them composed by Hydra itself")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    draw, counts, began = random.Random(asked.seed), Counter[str](), time.monotonic()
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        bases = {name: compose(name, overrides=NEEDED.get(name, [])) for name in SCHEMAS}
        keys = {name: keys_of(base) for name, base in bases.items()}
        for number in range(asked.examples):
            command = draw.choice(list(SCHEMAS))
            chosen = draw.choices(keys[command], k=draw.choice((1, 1, 1, 2, 3)))
            words = [f"{key}={any_value(draw)}" for key in chosen]
            is_whole = draw.random() < asked.whole / asked.examples
            result = outcome(command, words, None if is_whole else bases[command])
            counts[result if result in ("taken", "refused") else "failed"] += 1
            if result not in ("taken", "refused"):
                print(f"\rpassk {command} {words}: {result}", flush=True)
            if number % 500 == 0:
                rate = number / (time.monotonic() - began + 1e-9)
                print(
                    f"\r{number} of {asked.examples}, {rate:.0f} a second", end="", file=sys.stderr
                )
    print(
        f"\r{asked.examples} overrides: "
        + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    )
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
