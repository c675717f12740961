"""What the tests of sizing run on each rank; spawned processes import this module."""

import json
from collections import Counter
from pathlib import Path

import torch
from sizing import make_learner, make_rows
from step_costs import Job, Shape

from passk.learner.fsdp import local_tensor
from passk.ranks import gather, rank

ITEM_BYTES = {"float": 4, "c10::BFloat16": 2}


def traced(work) -> dict[str, list[int]]:
    """Of each kind of collective: how many there were, and the bytes of their larger tensor."""
    counts, sizes = Counter(), Counter()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        work()
    for event in profile.profiler.kineto_results.events():
        if event.name().startswith("c10d::"):
            kind = event.name().removeprefix("c10d::").strip("_")
            counts[kind] += 1
            tensors = [
                shape[0] * ITEM_BYTES[dtype]
                for shape, dtype in zip(event.shapes(), event.dtypes(), strict=True)
                if dtype in ITEM_BYTES and len(shape) == 1
            ]
            sizes[kind] += max(tensors, default=0)
    return {kind: [counts[kind], sizes[kind]] for kind in counts}


def step_collectives(out: str, shape: Shape, jobs: list[Job]) -> None:
    """Write the collectives of an update, and of handing all weights over, for each job."""
    torch.set_num_threads(1)
    found = []
    for job in jobs:
        learner = make_learner(shape, job, torch.device("cpu"))
        rows = make_rows(job, job.ranks)
        learner.update(rows)
        update = traced(lambda learner=learner, rows=rows: learner.update(rows))
        whole: list[int] = []
        weights = traced(
            lambda learner=learner, whole=whole: whole.extend(
                t.nbytes for _, t in learner.weights()
            )
        )
        found.append({"update": update, "weights": weights, "whole": sum(whole)})
    if rank() == 0:
        Path(out).write_text(json.dumps(found))


def held_bytes(out: str, shape: Shape, job: Job) -> None:
    """Write what each rank holds of weights, gradient and moments."""
    torch.set_num_threads(1)
    learner = make_learner(shape, job, torch.device("cpu"))
    rows = make_rows(job, job.ranks)
    learner.accumulate_gradient(rows)
    parameters = list(learner.model.parameters())
    gradient = sum(local_tensor(p.grad).nbytes for p in parameters)
    learner.update(rows)
    states = learner.optimizer.state.values()
    held = {
        "weights": sum(local_tensor(p).nbytes for p in parameters),
        "gradient": gradient,
        "Adam's moments": sum(
            local_tensor(state[moment]).nbytes
            for state in states
            for moment in ("exp_avg", "exp_avg_sq")
        ),
    }
    everywhere = gather(held)
    if rank() == 0:
        Path(out).write_text(json.dumps(everywhere))
