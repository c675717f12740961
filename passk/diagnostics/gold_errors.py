"""Find gold answers that are likely bad, and the weight of Pass@k on prompts whose gold is wrong.

A gold answer is suspect where samples agree on an answer and the verifier rejects it.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from passk.objectives.pass_at_k import FloatArray
from passk.types import Group, Verdict
from passk.verifiers.noise import FALSE_NEGATIVE, FALSE_POSITIVE

_TAIL = 0.025  # probability outside the bounds of a share, on each side
MIN_SAMPLES = 6  # fewer samples cannot show agreement: 0.025^(1/5) < 1/2


def vote_table(groups: Sequence[Group]) -> pd.DataFrame:
    """Count votes and injected verdicts: a row per prompt.

    The columns are majority_answer (empty without a vote), majority_votes, majority_share of all n
    judged samples, majority_accepted; false_negatives and false_positives among the n. Accepted
    answers form one class, named after the most frequent of them, since each is said to equal the
    gold answer. Samples without an answer do not vote, but count among the n.
    """
    rows = []
    for group in groups:
        judged = [verdict for verdict in group.verdicts if verdict.reward is not None]
        answer, votes, accepted = _majority(judged)
        reasons = Counter(verdict.reason for verdict in judged)
        rows.append(
            {
                "majority_answer": answer,
                "majority_votes": votes,
                "majority_share": votes / len(judged) if judged else np.nan,
                "majority_accepted": accepted,
                "false_negatives": reasons[FALSE_NEGATIVE],
                "false_positives": reasons[FALSE_POSITIVE],
            }
        )
    return pd.DataFrame(rows)


def _majority(judged: Sequence[Verdict]) -> tuple[str, int, bool]:
    """Return the most frequent answer, its votes, and if it is accepted (on a tie, it is)."""
    accepted = Counter(v.answer for v in judged if v.reward == 1 and v.answer)
    refused = Counter(v.answer for v in judged if v.reward != 1 and v.answer)
    (answer, votes), *_ = refused.most_common(1) or [("", 0)]
    if accepted and accepted.total() >= votes:
        return accepted.most_common(1)[0][0], accepted.total(), True
    return answer, votes, False


def agreement_table(groups: Sequence[Group], prompts: pd.DataFrame) -> pd.DataFrame:
    """Select the prompts whose samples agree, from `vote_table` and n, c, kind, level, type.

    They agree where the lower bound `share_low` of the majority's share lies above 1/2. Only one
    answer can have more than half of the probability, so selecting the most frequent of many does
    no harm: an answer with half of it or less passes in at most 2.5 % of prompts. `score` is
    share_low minus the upper bound of the share of accepted answers (NaN where the majority is
    accepted). Both bounds hold together with 95 %, so `score` bounds from below how much likelier
    the rejected answer is. `injected` is True where the majority answer was rejected on purpose.
    """
    n_P, c_P = prompts["n"].to_numpy(), prompts["c"].to_numpy()
    accepted_P = prompts["majority_accepted"].to_numpy()
    low_P = share_bounds(prompts["majority_votes"].to_numpy(), n_P)[0]
    table = pd.DataFrame(
        {
            **{name: prompts[name] for name in ("problem_id", "kind", "level", "type")},
            "prompt": [group.problem.prompt for group in groups],
            "gold": [group.problem.answer for group in groups],
            **{name: prompts[name] for name in ("majority_answer", "majority_votes")},
            "majority_accepted": accepted_P,
            **{name: prompts[name] for name in ("c", "n")},
            "share_low": low_P,
            "score": np.where(accepted_P, np.nan, low_P - share_bounds(c_P, n_P)[1]),
            "injected": [
                (answer, FALSE_NEGATIVE) in {(v.answer, v.reason) for v in group.verdicts}
                for group, answer in zip(groups, prompts["majority_answer"], strict=True)
            ],
        }
    )
    return table[table["share_low"] > 0.5].reset_index(drop=True)


def suspect_golds(agreed: pd.DataFrame) -> pd.DataFrame:
    """Return the prompts whose agreed answer the verifier rejects, the most suspicious first.

    Prompts with no accepted sample come first: an answer that the model merely prefers to the gold
    answer leaves the gold answer a few samples, while a wrong gold answer gets none. Within both
    parts prompts are sorted by `score`.
    """
    refused = agreed[~agreed["majority_accepted"]].drop(columns="majority_accepted")
    order = np.lexsort((-refused["score"], refused["c"] > 0))
    ordered: pd.DataFrame = refused.iloc[order]
    return ordered.reset_index(drop=True)


def share_bounds(votes_P: np.ndarray, n_P: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Compute exact bounds of a share from votes among n; each fails with at most 2.5 %.

    At n = 0 the bounds are 0 and 1. Source: Clopper and Pearson 1934.
    """
    with np.errstate(invalid="ignore"):
        low_P: FloatArray = betaincinv(votes_P, n_P - votes_P + 1.0, _TAIL)
        high_P: FloatArray = betaincinv(votes_P + 1.0, n_P - votes_P, 1 - _TAIL)
    low_P[votes_P == 0], high_P[votes_P == n_P] = 0.0, 1.0
    return low_P, high_P


def wrong_gold_share(mean_weight: float, k: int, rate: float) -> float:
    """Compute e k / (e k + (1-e) E[w_k(p)]), the share of the weight w_k on wrong gold answers.

    Assumes that the gold of each prompt is wrong with probability e, and that no sample is then
    right. Such a prompt weighs w_k(0) = k, the maximum, and the others w_k(p) = k (1-p)^(k-1) as
    before.
    """
    wrong, right = rate * k, (1 - rate) * mean_weight
    return wrong / (wrong + right) if wrong else 0.0


def injected_table(prompts: pd.DataFrame, ks: Sequence[int], rate: float) -> pd.DataFrame:
    """Compute the shares of prompts, weight and f(k) with an injected error: a row per error and k.

    `prompts` is the table of `passk diagnose`; a prompt has an error where a verdict of its samples
    was injected. `expected_weight_share` is `wrong_gold_share` at the false negative rate, with the
    weights of the prompts without an error. A wrong gold that no sample met is not seen, and counts
    there as a hard prompt. `contribution` adds up over prompts to f(k), which is given beside it.
    """
    rows = []
    for error in (FALSE_NEGATIVE, FALSE_POSITIVE):
        has_it = (prompts[f"{error}s"] > 0).to_numpy()
        if not has_it.any():
            continue
        for k in ks:
            weights_P = prompts[f"weight_{k}"].to_numpy()
            contributions_P = prompts[f"contribution_{k}"].to_numpy()
            clean = float(weights_P[~has_it].mean()) if not has_it.all() else 0.0
            total = weights_P.sum()
            rows.append(
                {
                    "error": error,
                    "k": k,
                    "prompt_share": float(has_it.mean()),
                    "weight_share": float(weights_P[has_it].sum() / total) if total else 0.0,
                    "expected_weight_share": (
                        wrong_gold_share(clean, k, rate) if error == FALSE_NEGATIVE else np.nan
                    ),
                    "contribution": float(np.where(has_it, contributions_P, 0.0).mean()),
                    "inner_product": float(contributions_P.mean()),
                }
            )
    return pd.DataFrame(rows)
