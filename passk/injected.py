"""Where the weight of Pass@k goes when the verifier errs: to the prompts whose gold is wrong."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from passk.noisy_verifier import FALSE_NEGATIVE, FALSE_POSITIVE


def wrong_gold_share(mean_weight: float, k: int, rate: float) -> float:
    """e k / (e k + (1-e) E[w_k(p)]): the share of the weight w_k on prompts whose gold is wrong.

    Where the gold of each prompt is wrong with probability e, and no sample is then right: such a
    prompt weighs w_k(0) = k, the most there is, and the others w_k(p) = k (1-p)^(k-1) as before.
    """
    wrong, right = rate * k, (1 - rate) * mean_weight
    return wrong / (wrong + right) if wrong else 0.0


def injected_table(prompts: pd.DataFrame, ks: Sequence[int], rate: float) -> pd.DataFrame:
    """A row per error and k: what share of prompts had it, of the weight, and of f(k).

    `prompts` is the table of `passk diagnose`; a prompt has an error where a verdict of its
    samples was injected. `expected_weight` is `wrong_gold_share` at the false negative rate, with
    the weights of the prompts without one; a wrong gold that no sample met is not seen, and counts
    there as a hard prompt. `contribution` adds up over prompts to f(k), given beside it.
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
