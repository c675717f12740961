"""Draw the figure of `passk eval`: Pass@k at every k of one evaluation."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from passk.style import REGIME_COLORS, STYLE


@matplotlib.rc_context(STYLE)
def pass_at_k_curve(curve: pd.DataFrame) -> Figure:
    """Draw Pass@k at every k of one evaluation, with its interval; `curve` comes from `pass_curve`.

    The line is dashed beyond n/4, where the estimate is noisy.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    k, value = curve["k"].to_numpy(), 100 * curve["value"].to_numpy()
    color = REGIME_COLORS["pass1"]
    low, high = 100 * curve["ci_low"].to_numpy(), 100 * curve["ci_high"].to_numpy()
    axes.fill_between(k, low, high, color=color, alpha=0.15, linewidth=0)
    steady = k <= max(int(curve["num_samples"].iloc[0]) // 4, 1)
    axes.plot(k, np.where(steady, value, np.nan), color=color, marker="o", markersize=3)
    last_steady = max(int(steady.sum()) - 1, 0)  # where the dashed part begins
    axes.plot(k[last_steady:], value[last_steady:], color=color, linestyle=(0, (4, 3)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    num_problems = int(curve["num_problems"].iloc[0])
    axes.set(
        title=f"Pass@k of {num_problems} problems (%)", xlabel="k, log scale; dashed beyond n/4"
    )
    return figure
