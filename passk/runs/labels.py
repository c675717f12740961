"""Name runs and their settings for people, by what sets them apart."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from passk.config.schema import AUTO, FREE_ON_RESUME, REGIMES
from passk.runs.reader import RunRecord, flat, natural_order

# Settings that say where or how often a run happened, not what it did. `init_from` is added only
# where it distinguishes two runs of a seed.
_INCIDENTAL = {"seed", "noise_seed", "init_from", "device", "save_every", "measures", "taus"}
_REMEDIES = {
    "adaptive_k": "Adaptive k up to {k}",
    "curriculum": "Curriculum, Pass@{k}",
    "projected": "Projected Pass@{k}",
}


def config_differences(records: Sequence[RunRecord]) -> pd.DataFrame:
    """List settings that differ between the runs: dotted keys as index, a column per run in order.

    Seeds, names and places are left out; a setting that a run lacks is None.
    """
    flattened = [flat(record.config, ".") for record in records]
    keys = dict.fromkeys(key for settings in flattened for key in settings)
    rows = {key: [settings.get(key) for settings in flattened] for key in keys}
    differing = {
        key: values
        for key, values in rows.items()
        if key.rpartition(".")[2] not in _INCIDENTAL
        and key not in (*FREE_ON_RESUME, "eval.ks")
        and not key.startswith("tracker.")
        and len({repr(v) for v in values}) > 1
    }
    return pd.DataFrame.from_dict(
        differing, orient="index", columns=range(len(records)), dtype=object
    )


def run_labels(records: Sequence[RunRecord]) -> list[str]:
    """Label each run by its regime and its distinguishing settings; seeds share a label.

    `hybrid` where all hybrid runs share their settings, else for example `hybrid k=4
    pass1_weight=0.7` or `hybrid cue=1`. Where each seed starts from its own checkpoint, the start
    counts as part of the seed; where runs of one seed have several starts, `init_from` is part of
    the label.
    """
    labels = [""] * len(records)
    for regime in {record.regime for record in records}:
        members = [i for i, record in enumerate(records) if record.regime == regime]
        differing = config_differences([records[i] for i in members])
        names = {key: short_names(values) for key, values in differing.iterrows()}
        for column, i in enumerate(members):
            settings = differing[column].to_dict()
            parts = [
                _setting(str(key), names[key].get(str(value), value))
                for key, value in settings.items()
                if not _is_implied(str(key), settings)
            ]
            labels[i] = " ".join([regime, *parts])
    return _with_starts(labels, records)


def _is_implied(key: str, settings: Mapping[Any, Any]) -> bool:
    """Return True for k and pass1_weight beside regime.ks, and for a null regime.ks or weights."""
    if key in ("regime.ks", "regime.weights"):
        return settings[key] is None
    return bool(settings.get("regime.ks")) and key in ("regime.k", "regime.pass1_weight")


def _with_starts(labels: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """Add `init_from` to labels that runs of one seed share although they start elsewhere."""
    starts = [_start(record, records) for record in records]
    of_seed: dict[tuple[str, int], set[str | None]] = {}
    for label, record, start in zip(labels, records, starts, strict=True):
        of_seed.setdefault((label, record.seed), set()).add(start)
    unlike = {label for (label, _), found in of_seed.items() if len(found) > 1}
    names = short_names(
        [start for label, start in zip(labels, starts, strict=True) if label in unlike]
    )
    return [
        f"{label} {_setting('init_from', names.get(start))}" if label in unlike else label
        for label, start in zip(labels, starts, strict=True)
    ]


def _start(record: RunRecord, records: Sequence[RunRecord]) -> str | None:
    """Return where a run's weights came from, with the seed's own number replaced by S.

    In a reproduction that is the start of its SFT run, from which all runs of the seed come.
    """
    sft = next((r for r in records if r.regime == "sft" and r.seed_dir == record.seed_dir), record)
    start = (record if record.seed_dir is None else sft).setting("train.init_from")
    if not start:
        return None
    path = str(Path(str(start)).expanduser().resolve())
    return re.sub(rf"\bseed-{record.seed}\b", "seed-S", path)


def short_names(values: Iterable[object]) -> dict[Any, str]:
    """Shorten each text among the values to its shortest unique end of whole path parts."""
    parts = {value: Path(value).parts for value in values if isinstance(value, str)}
    names = {}
    for value, own in parts.items():
        others = [other for other in parts.values() if other != own]
        sizes = range(1, len(own) + 1)
        size = next((n for n in sizes if all(o[-n:] != own[-n:] for o in others)), len(own))
        names[value] = str(Path(*own[-size:])) if own else value
    return names


def in_order(records: Sequence[RunRecord]) -> list[tuple[str, RunRecord]]:
    """Sort into (label, record) by regime (SFT first), label (numbers by size), then seed."""

    def place(item: tuple[str, RunRecord]) -> tuple[int, list[tuple[float, str]], int]:
        label, record = item
        known = record.regime in REGIMES
        regime = REGIMES.index(record.regime) if known else len(REGIMES)
        return regime, natural_order(label), record.seed

    return sorted(zip(run_labels(records), records, strict=True), key=place)


def _setting(key: str, value: object) -> str:
    """Format a setting as one word, such as `cue=1.0`, with the last part of the key."""
    return f"{key.rpartition('.')[2]}={value}".replace(" ", "")


def run_title(record: RunRecord, label: str) -> str:
    """Title the run for people: `SFT`, `Pass@8-only`, `Hybrid 0.7/0.3`, then what sets it apart."""
    said = {"pass1_weight", "estimator"}
    if record.regime == "sft":
        title = "SFT"
    elif (estimator := record.setting("regime.estimator", "mixture")) != "mixture":
        title = str(estimator)
    elif record.setting("regime.pass1_weight") == AUTO:
        title = "Hybrid, weight measured"
    elif not record.optimises_passk:
        title = "Pass@1-only"
    elif record.regime in _REMEDIES:
        title = _REMEDIES[record.regime].format(k=record.k)
        said.add("k")
    elif ks := record.setting("regime.ks"):
        title = f"Hybrid of Pass@{', '.join(map(str, ks))}"
        said |= {"k", "ks"}
    elif record.pass1_weight == 0:
        title = f"Pass@{record.k}-only"
        said.add("k")
    else:
        weight = record.pass1_weight
        title = f"Hybrid {weight:g}/{round(1 - weight, 6):g}"
    rest = [word for word in label.split()[1:] if word.partition("=")[0] not in said]
    unset = "=None"
    return ", ".join([title, *(f"no {w[: -len(unset)]}" if w.endswith(unset) else w for w in rest)])
