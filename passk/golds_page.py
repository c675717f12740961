"""What the page of `passk diagnose` says of gold answers: which may be bad, what bad ones weigh."""

import pandas as pd

from passk.breakdown import kind_order
from passk.diagnose_tables import Diagnosis
from passk.suspects import MIN_SAMPLES, suspect_golds
from passk.wording import markdown

_NUM_SHOWN = 10
_MAX_CHARS = 60  # of a prompt or an answer


def gold_sections(found: Diagnosis) -> list[str]:
    """Headings and texts, in order."""
    sections = ["## Gold answers that are likely bad", _suspects(found)]
    if len(found.agreed):
        grouping = next(iter(found.groups), None)
        sections += [_by_group(found, grouping)] if grouping else []
        listed = suspect_golds(found.agreed).head(_NUM_SHOWN)
        sections += [_list(listed)] if len(listed) else []
    if len(found.injected):
        sections += ["## Errors of the verifier that were made on purpose", _injected(found)]
    return sections


def _suspects(found: Diagnosis) -> str:
    num_samples = found.prompts["n"].max()
    if num_samples < MIN_SAMPLES:
        return (
            f"{num_samples} samples of a prompt cannot agree beyond doubt; suspects are listed "
            f"from {MIN_SAMPLES} on (diagnose.num_samples)."
        )
    agreed = found.agreed
    if agreed.empty:
        return "The samples of no prompt agree on one answer, so no gold answer can be suspected."
    listed = agreed[~agreed["majority_accepted"]]
    return (
        f"The samples of {len(agreed)} of {len(found.prompts)} prompts agree on one answer (it "
        "surely has more than half of the probability: the lower bound of its share, wrong in at "
        "most 2.5 % of prompts, lies above 1/2). "
        f"The verifier accepts it for {len(agreed) - len(listed)} of them and refuses it for "
        f"{len(listed)}, which suspect_golds.csv lists, the most suspicious first: there the gold "
        "answer is wrong, or the model is, and sure of itself. For "
        f"{int((listed['c'] == 0).sum())} of these no sample is accepted: a gold answer that is "
        "wrong leaves no right sample, a reading of the prompt that the model seldom takes leaves "
        "a few. Where a whole group of prompts is refused, think of such a reading first."
    )


def _by_group(found: Diagnosis, grouping: str) -> str:
    agreed, rows = found.agreed, []
    for name in kind_order(found.prompts[grouping]):
        part = agreed[agreed[grouping] == name]
        refused = part[~part["majority_accepted"]]
        row = {
            grouping: name,
            "prompts": str((found.prompts[grouping] == name).sum()),
            "samples agree": str(len(part)),
            "and are refused": str(len(refused)),
            "none right": str((refused["c"] == 0).sum()),
        }
        if len(found.injected):
            row["refused on purpose"] = str(refused["injected"].sum())
        rows.append(row)
    return markdown(pd.DataFrame(rows), {})


def _list(listed: pd.DataFrame) -> str:
    rows = [
        {
            "problem": row["problem_id"],
            "prompt": _short(row["prompt"]),
            "gold": _short(row["gold"]),
            "samples answer": _short(row["majority_answer"]),
            "votes": f"{row['majority_votes']} of {row['n']}",
            "right": str(row["c"]),
            "score": f"{row['score']:.2f}",
        }
        for row in listed.to_dict("records")
    ]
    return markdown(pd.DataFrame(rows), {})


def _injected(found: Diagnosis) -> str:
    columns = {
        "error": "error",
        "k": "k",
        "prompt_share": "prompts with it (%)",
        "weight_share": "their share of the weight (%)",
        "expected_weight_share": "expected (%)",
        "contribution": "their contribution to f(k)",
        "inner_product": "f(k)",
    }
    rows = []
    for row in found.injected.to_dict("records"):
        cells = {"error": row["error"].replace("_", " "), "k": str(row["k"])}
        for name in ("prompt_share", "weight_share", "expected_weight_share"):
            cells[name] = "" if pd.isna(row[name]) else f"{100 * row[name]:.1f}"
        for name in ("contribution", "inner_product"):
            cells[name] = f"{row[name]:.3g}"
        rows.append(cells)
    return (
        "Prompts some of whose verdicts were turned over (verifier.false_negative_rate, "
        "verifier.false_positive_rate). Expected is e k / (e k + (1-e) E[w_k]), e the false "
        "negative rate. A prompt none of whose samples is accepted weighs the most and moves "
        "nothing: its contribution is 0.\n\n" + markdown(pd.DataFrame(rows), columns)
    )


def _short(text: str) -> str:
    """One line of a table."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 3] + "..."
