"""Measure the weight of Pass@1 that a hybrid needs, at the start of training."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from passk.config.schema import AUTO, TrainConfig
from passk.console import working
from passk.diagnostics.alignment import needed_weight, pass_gradient
from passk.errors import UserError
from passk.files import read_manifest
from passk.memory import memory_advice
from passk.ranks import rank
from passk.statistics import Interval
from passk.training.build import Parts
from passk.training.loop import diagnostic_groups

WEIGHT, NEEDED = "pass1_weight", "pass1_weight_needed"  # facts of the manifest
_DIGITS = 1000  # the weight is rounded up to three decimals


def with_measured_weight(
    cfg: TrainConfig, parts: Parts, run_dir: Path
) -> tuple[TrainConfig, dict[str, Any]]:
    """Replace regime.pass1_weight=auto by a number; return it as facts for the manifest too.

    The policy must be the one that training starts from, unless a run is resumed: then the number
    is that of its manifest. Raises UserError if that has none.
    """
    if cfg.regime.pass1_weight != AUTO:
        return cfg, {}
    recorded = read_manifest(run_dir) if cfg.resume else {}
    facts = {name: recorded[name] for name in (WEIGHT, NEEDED) if name in recorded}
    if cfg.resume and len(facts) < 2:
        raise UserError(
            f"resume=true with regime.pass1_weight=auto, but {run_dir / 'manifest.json'} does not "
            f"say which weight was measured ({WEIGHT}); start in another directory"
        )
    if not facts:
        needed = measure_weight(cfg, parts)
        chosen = math.ceil(_DIGITS * needed.high) / _DIGITS
        facts = {WEIGHT: chosen, NEEDED: [needed.value, needed.low, needed.high]}
        if rank() == 0:
            print(_sentence(cfg, chosen, needed), flush=True)
    return replace(cfg, regime=replace(cfg.regime, pass1_weight=facts[WEIGHT])), facts


def measure_weight(cfg: TrainConfig, parts: Parts) -> Interval:
    """Measure the needed weight from the samples that the diagnostics of step 0 draw.

    Training takes the upper end of its interval: what the weight is chosen for is that Pass@1 is
    not lowered, a step is longer than the first order reaches, and that costs Pass@1 more, not
    less (docs/research/findings.md).
    """
    diagnostics = cfg.diagnostics
    groups = diagnostic_groups(0, cfg, parts, diagnostics.num_prompts, diagnostics.num_samples)
    parts.sampler.sleep()
    num_blocks = min(diagnostics.num_blocks, len(groups))
    if num_blocks < 3:
        raise UserError(
            f"regime.pass1_weight=auto compares training problems with one another; {len(groups)} "
            "are too few, 3 are needed"
        )
    with memory_advice("learner"), working("measuring the weight of Pass@1"):
        passk_MD, pass1_MD = (
            pass_gradient(parts.learner, groups, k, num_blocks) for k in (cfg.regime.k, 1)
        )
        return needed_weight(passk_MD, pass1_MD)


def _sentence(cfg: TrainConfig, chosen: float, needed: Interval) -> str:
    text = (
        f"weight of Pass@1: {chosen:g}, the upper end of what keeps Pass@{cfg.regime.k} from "
        f"lowering Pass@1 to first order ({needed.value:.3f}, 95 % interval {needed.low:.3f} to "
        f"{needed.high:.3f})"
    )
    if chosen < 1:
        return text
    return f"{text}: this is Pass@1 alone; more diagnostics.num_prompts narrow the interval"
