"""Draw the figure of `passk explain`: an objective's weight on prompts by their success."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from passk.objectives.pass_at_k import FloatArray
from passk.style import DASHES, INK, K_COLORS, STYLE

SHOWN_PS = 1 / (1 + np.exp(-np.linspace(-np.log(999), np.log(999), 161)))  # 0.001 to 0.999
_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
_LEAST = 0.02  # lower end of the axis of weights, which may fall to 0


@matplotlib.rc_context(STYLE)
def weight_curves(
    target_P: FloatArray, weights: Mapping[str, FloatArray], objective: str
) -> Figure:
    """Draw the target at `SHOWN_PS` and a curve per estimator; the first one is the chosen one.

    Success probabilities are on a logit scale: logarithmic towards 0 and towards 1.
    """
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, weight_P) in enumerate(weights.items()):
        width = 4.0 if place == 0 else 1.6
        color, dash = K_COLORS[place % len(K_COLORS)], DASHES[place // len(K_COLORS)]
        axes.plot(SHOWN_PS, weight_P, dash, color=color, linewidth=width, label=name)
    axes.plot(
        SHOWN_PS, target_P, color=INK, linewidth=1.4, linestyle=(0, (4, 3)), label="target w(p)"
    )
    axes.set_xscale("logit")
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(_TICKS, [f"{p:g}" for p in _TICKS])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    drawn = np.concatenate([target_P, *weights.values()])
    axes.set_ylim(max(_LEAST, 0.5 * min(drawn.min(), 1.0)), 1.5 * max(drawn.max(), 1.0))
    axes.set(
        title=f"Weight on a prompt, {objective}",
        xlabel="success probability p of the prompt (logit scale)",
        ylabel="implied weight ω(p)",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
