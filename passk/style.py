"""Style shared by all figures: palette, matplotlib settings, direct labels.

Colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish.
"""

import warnings
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import fontManager

REGIME_COLORS = {"sft": "#595959", "pass1": "#0072B2", "passk": "#D55E00", "hybrid": "#009E73"}
REGIME_COLORS |= {"adaptive_k": "#CC79A7", "curriculum": "#E69F00", "projected": "#56B4E9"}
KIND_COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#F0E442")
K_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
INK, FAINT = "#222222", "#B8B8B8"
# Fonts for names in scripts that DejaVu Sans lacks, in order of preference.
_WIDER = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "Noto Sans Devanagari", "Unifont"),
)
# Without such a font these letters are drawn as boxes; a warning for each adds nothing.
warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
STYLE: Any = {
    "font.family": ["DejaVu Sans", *(n for n in _WIDER if n in fontManager.get_font_names())],
    "text.parse_math": False,  # a $ in a name is a dollar
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 180,
}


def kind_colors(kinds: Iterable[str]) -> dict[str, str]:
    """Map each kind to a colour; kinds come in the order of `tables.kind_order`."""
    return dict(zip(kinds, cycle(KIND_COLORS), strict=False))


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], gap: float = 0.065) -> None:
    """Write the name of each line, `(height, name, colour)`, to the right of its end.

    Names closer than `gap`, a share of the axes' height, are pushed apart.
    """
    low, high = axes.get_ylim()
    ends = sorted(ends)
    heights = [(end[0] - low) / (high - low) for end in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    # Names were only pushed up: centre them again on the heights of their lines.
    shift = float(
        np.mean([(end[0] - low) / (high - low) - h for end, h in zip(ends, heights, strict=True)])
    )
    for height, (_, name, color) in zip(heights, ends, strict=True):
        axes.text(1.02, height + shift, name, color=color, va="center", transform=axes.transAxes)
    axes.set_ylim(low, high)
