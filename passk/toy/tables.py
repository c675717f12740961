"""Compute the tables of `passk toy`: the paper's two prompts, the population, and its ascent."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from passk.config.commands import PopulationConfig
from passk.objectives.theory import (
    FloatArray,
    PromptGradients,
    agreement,
    cosine,
    decompose,
    direct_step,
    first_conflict,
    inner_product,
    k_star,
    kernel,
    one_step,
    pass_at_k,
    passk_gradient,
    passk_weight,
    separation,
    smoothness,
)
from passk.toy.bandit import Prompts, ascend, policy_at, policy_bounds, population, two_prompts

# The example of section 3.3. The paper does not print its theta: it follows from the printed
# weights, and reproduces every other printed number.
EXAMPLE_THETA, EXAMPLE_DELTA, EXAMPLE_K, EXAMPLE_STEP = (-2.0, -2.0), 0.2, 10, 5.0
FINE_NODES = 20_001  # for the histogram and the check of the quadrature
NUM_BINS = 60

Row = tuple[str, str, float]  # quantity, value printed in the paper (or ""), our value


def two_prompts_table() -> pd.DataFrame:
    """Compare the example with the paper: columns quantity, paper, here, agrees."""
    prompts = two_prompts(EXAMPLE_DELTA)
    start = policy_at(EXAMPLE_THETA, prompts)
    rows = [*_printed(prompts, start), *_not_printed(prompts, start)]
    table = pd.DataFrame(rows, columns=["quantity", "paper", "here"])
    table["agrees"] = [_agrees(paper, here) if paper else "" for _, paper, here in rows]
    return table


def _printed(prompts: Prompts, start: PromptGradients) -> list[Row]:
    """Return every number that the paper prints for the example, in its order."""
    k = EXAMPLE_K
    easy, hard = prompts.features_PD
    p_easy, p_hard = start.success_P
    w_easy, w_hard = passk_weight(start.success_P, k)
    end = policy_at(_after(start, EXAMPLE_STEP), prompts)
    return [
        ("psi(x_e), second entry", "-0.1", easy[1]),
        ("psi(x_h), second entry", "0.1", hard[1]),
        ("cos(psi_e, psi_h)", "0.98", _cosine(easy, hard)),
        ("p(x_e)", "0.86", p_easy),
        ("p(x_h)", "0.10", p_hard),
        ("kappa(x_e, x_h)", "-0.01", kernel(start)[0, 1]),
        ("cos(grad p_e, grad p_h)", "-0.98", _cosine(*start.gradients_PD)),
        (f"w_{k}(x_e)", "2.33e-7", w_easy),
        (f"w_{k}(x_h)", "3.88", w_hard),
        (f"cos(grad J_1, grad J_{k})", "-0.77", float(cosine(start, k))),
        (f"J_1 before a step of {EXAMPLE_STEP:g}", "0.48", float(pass_at_k(start, 1))),
        ("J_1 after it", "0.46", float(pass_at_k(end, 1))),
        (f"J_{k} before it", "0.83", float(pass_at_k(start, k))),
        (f"J_{k} after it", "0.95", float(pass_at_k(end, k))),
    ]


def _not_printed(prompts: Prompts, start: PromptGradients) -> list[Row]:
    """Return numbers that follow: agreement, the k in conflict, and how loose the bounds are."""
    k, bounds = EXAMPLE_K, policy_bounds(prompts)
    a_easy, a_hard = agreement(start)
    separated = separation(start, -a_hard)
    promised, direct = one_step(start, k, -a_hard, bounds), direct_step(start, k, bounds)
    assert separated and promised and direct, "the example conflicts at k = 10"
    products = [(f"grad J_1 . grad J_{j}", float(inner_product(start, j))) for j in (2, 3, 5, k)]
    cosines = [(f"cos(grad J_1, grad J_{j})", float(cosine(start, j))) for j in (2, 3, 5)]
    rows = [
        ("a(x_e)", a_easy),
        ("a(x_h)", a_hard),
        *products,
        *cosines,
        ("first k in conflict", float(first_conflict(start) or np.nan)),
        ("k* of proposition 4.5: every k above it conflicts", k_star(separated, bounds)),
        ("G^2 = F, the least that hold at every theta", bounds.score),
        ("delta(theta) of corollary 4.4", promised.slope),
        ("L_1", smoothness(1, bounds)),
        (f"L_{k}", smoothness(k, bounds)),
        ("C_2 of proposition 4.6", promised.curvature),
        ("largest step that proposition 4.6 promises", promised.largest),
        ("largest step that the gradients themselves promise", direct.largest),
        ("largest step that does lower J_1 and raise J_10", _largest_step(prompts, start)),
    ]
    return [(quantity, "", value) for quantity, value in rows]


def _after(start: PromptGradients, step: float | FloatArray) -> FloatArray:
    """Return theta after a step along grad J_k from the example's theta."""
    return np.asarray(EXAMPLE_THETA) + step * passk_gradient(start, EXAMPLE_K)


def _largest_step(prompts: Prompts, start: PromptGradients) -> float:
    """Find the step of a fine grid up to which every step lowers J_1 and raises J_k."""
    steps_N = np.geomspace(1e-5, 1e5, 100_001)
    ends = policy_at(_after(start, steps_N[:, None]), prompts)
    falls_N = pass_at_k(ends, 1) < pass_at_k(start, 1)
    rises_N = pass_at_k(ends, EXAMPLE_K) > pass_at_k(start, EXAMPLE_K)
    return float(steps_N[(falls_N & rises_N).argmin() - 1])


def _cosine(a: FloatArray, b: FloatArray) -> float:
    return float(a @ b / np.sqrt(a @ a * (b @ b)))


def _agrees(printed: str, value: float) -> str:
    """Return "yes" if our value, rounded as the paper rounds it, equals the printed one."""
    mantissa, e, _ = printed.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return "yes" if float(f"{value:.{decimals}{e or 'f'}}") == float(printed) else "no"


def ascent_path(cfg: PopulationConfig) -> FloatArray:
    """Return every theta of the ascent on J_k, starting point first: [num_steps + 1, 2]."""
    prompts = population(cfg.p_hard, cfg.delta)
    return ascend(cfg.theta, prompts, cfg.k, cfg.step_size, cfg.num_steps)


def ascent_table(cfg: PopulationConfig, path_SD: FloatArray) -> pd.DataFrame:
    """Compute a row per iteration of the ascent.

    The columns are iteration, theta, Pass@1 and Pass@k of all, easy and hard prompts, and the inner
    product and cosine of grad J_1 and grad J_k.
    """
    prompts = population(cfg.p_hard, cfg.delta)
    policies = policy_at(path_SD, prompts)
    columns = {"theta_bias": path_SD[:, 0], "theta_slope": path_SD[:, 1]}
    groups = {"": prompts, "_easy": prompts.only(False), "_hard": prompts.only(True)}
    for kind, members in groups.items():
        of_kind = policy_at(path_SD, members)
        columns[f"pass1{kind}"] = pass_at_k(of_kind, 1)
        columns[f"passk{kind}"] = pass_at_k(of_kind, cfg.k)
    columns["inner_product"] = inner_product(policies, cfg.k)
    columns["cosine"] = cosine(policies, cfg.k)
    table = pd.DataFrame(columns)
    table.insert(0, "iteration", range(len(table)))
    return table


def population_table(cfg: PopulationConfig, path_SD: FloatArray) -> pd.DataFrame:
    """Decompose <grad J_1, grad J_k> before and after the ascent: quantity, start, end."""
    ends = [_summary(theta, cfg) for theta in path_SD[[0, -1]]]
    rows = [(name, *(end[name] for end in ends)) for name in ends[0]]
    return pd.DataFrame(rows, columns=["quantity", "start", "end"])


def _summary(theta: FloatArray, cfg: PopulationConfig) -> dict[str, float]:
    policy = policy_at(theta, population(cfg.p_hard, cfg.delta))
    prompts = population(cfg.p_hard, cfg.delta, FINE_NODES)  # fine: a(x) < 0 is a step function
    fine, of_hard = policy_at(theta, prompts), prompts.is_hard_P
    a_P = agreement(fine)
    negative_P = prompts.share_P * (a_P < 0)
    means = {
        f"mean a, {kind}": float(prompts.share_P[of] @ a_P[of] / prompts.share_P[of].sum())
        for kind, of in (("easy", ~of_hard), ("hard", of_hard))
    }
    return {
        "pass1": float(pass_at_k(policy, 1)),
        "passk": float(pass_at_k(policy, cfg.k)),
        **asdict(decompose(policy, cfg.k)),
        "cosine": float(cosine(policy, cfg.k)),
        "share of all: easy with a < 0": float(negative_P[~of_hard].sum()),
        "share of all: hard with a < 0": float(negative_P[of_hard].sum()),
        **means,
        "first k in conflict, of 2 to 1000": float(first_conflict(policy) or np.nan),
    }


def quadrature_error(cfg: PopulationConfig, path_SD: FloatArray) -> float:
    """Return the largest change of J_1, J_k and grad J_1 . grad J_k with fifty times as many nodes.

    The maximum is over both ends of the ascent.
    """
    coarse, fine = (
        policy_at(path_SD[[0, -1]], population(cfg.p_hard, cfg.delta, *nodes))
        for nodes in ((), (FINE_NODES,))
    )
    return max(
        float(np.abs(measure(coarse) - measure(fine)).max())
        for measure in (
            lambda policy: pass_at_k(policy, 1),
            lambda policy: pass_at_k(policy, cfg.k),
            lambda policy: inner_product(policy, cfg.k),
        )
    )


def agreement_table(cfg: PopulationConfig, path_SD: FloatArray) -> pd.DataFrame:
    """Compute histograms of a(x) before and after the ascent: iteration, kind, low, high, share.

    `share` is the part of the whole population that is of this kind and in this bin. The outermost
    bins also hold the thin tails beyond them, and 0 lies between two bins.
    """
    prompts = population(cfg.p_hard, cfg.delta, FINE_NODES)
    scores_EP = agreement(policy_at(path_SD[[0, -1]], prompts))
    tails = [
        np.quantile(scores_P, (0.0005, 0.9995), weights=prompts.share_P, method="inverted_cdf")
        for scores_P in scores_EP
    ]
    reach = np.abs(tails).max()
    edges = np.linspace(-reach, reach, NUM_BINS + 1)
    frames = []
    inside_EP = scores_EP.clip(-reach, reach)
    for iteration, scores_P in zip((0, len(path_SD) - 1), inside_EP, strict=True):
        for kind, of in (("easy", ~prompts.is_hard_P), ("hard", prompts.is_hard_P)):
            share, _ = np.histogram(scores_P[of], bins=edges, weights=prompts.share_P[of])
            bins = {"low": edges[:-1], "high": edges[1:], "share": share}
            frames.append(pd.DataFrame({"iteration": iteration, "kind": kind, **bins}))
    return pd.concat(frames, ignore_index=True)
