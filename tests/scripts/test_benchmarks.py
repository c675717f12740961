"""The benchmarks of speed and memory: workers take turns, tables go where they belong."""

import cProfile

import bench
import bench_gpu
import pytest
import torch
from bench_document import DOCUMENT, step_cells, write
from bench_gpu_workers import REHEARSAL, distinct_prefixes, read
from bench_model_workers import profiled_seconds
from bench_real_model import SFT, TREES, Start, problems
from bench_turns import Job, Settings, WorkerFailed
from bench_workers import compose, rows_that_fit

from passk.rollout.base import group_seeds

SMALL = ("rollout.num_prompts=4", "rollout.num_samples=4", "regime.k=2")


def test_a_step_is_timed_and_its_tokens_are_counted():
    jobs = [Job("passk", 1, (*SMALL, switch)) for switch in (TREES, "unshared")]
    shared, alone = Settings(steps=1, warmup=1).measure(*jobs)
    for steps in (shared, alone):
        assert len(steps.seconds) == 1 and steps.seconds[0] > sum(steps.phases["learn"]) > 0
        assert steps.completions == [16, 16] and steps.peak_mib >= steps.start_mib > 0
        assert len(step_cells("passk", steps)) == len(bench.STEP_HEADER)
    assert 0 < shared.tokens["sampler"][0] < alone.tokens["sampler"][0]
    assert shared.tokens["learner"][0] > 0
    assert shared.rewards == alone.rewards  # the same samples


def test_a_worker_that_fails_ends_the_others_and_says_why():
    with pytest.raises(WorkerFailed, match=r"regime\.k") as failed:
        Settings(1, 0).measure(Job("estimator"), Job("passk", 1, ("regime.k=abc",)))
    assert failed.value.job.name == "passk" and "Error" in failed.value.reason


def test_a_table_replaces_its_own_section(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: bench a -->\nold\n<!-- end: bench a -->\nafter\n")
    for _ in range(2):
        write("a", "### new\n", "make bench", page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert text.count("### new") == 1 and "old" not in text and "`make bench`" in text
    with pytest.raises(SystemExit, match="bench b"):
        write("b", "### new\n", "make bench", page)


def test_every_section_has_its_place_in_the_page():
    text = DOCUMENT.read_text()
    for name in (*bench.parse([]).only, "gpu"):
        assert text.count(f"<!-- begin: bench {name} -->") == 1
        assert text.count(f"<!-- end: bench {name} -->") == 1


def test_a_whole_step_starts_from_the_word_problems(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "2+2?", "answer": "4"}\n')
    cfg = compose((*SFT, *problems(tmp_path)))
    assert (cfg.regime.name, cfg.train.num_steps, cfg.verifier.name) == ("sft", 30, "math")
    cfg = compose(Start(tmp_path, tmp_path / "model").job("passk", TREES).switches)
    assert (cfg.rollout.num_prompts, cfg.rollout.num_samples) == (64, 16)
    assert (cfg.rollout.max_new_tokens, cfg.data.prompt.template) == (24, "{problem}\n")
    assert cfg.model.path == str(tmp_path / "model") and cfg.learner.prefix_trees
    assert rows_that_fit(cfg, 100) == rows_that_fit(cfg, 2000) == 8  # TRL's default
    cfg.learner.max_tokens_per_batch = 1024
    assert [rows_that_fit(cfg, longest) for longest in (100, 128, 2000, 1)] == [8, 8, 1, 1024]


@pytest.mark.parametrize(("name", "said"), [("real-model", "--data FOLDER"), ("no", "'no'")])
def test_a_section_that_cannot_be_measured_is_refused(name, said, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", name])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_the_bench_of_a_gpu_wants_one_or_a_rehearsal(capsys):
    on_gpu = torch.cuda.is_available()
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main(["--rehearse"] if on_gpu else [])
    assert ended.value.code == 2 and "--rehearse" in capsys.readouterr().err


def test_sizes_travel_as_switches_and_prefixes_are_counted_once():
    assert read(REHEARSAL.switches("folder")) == ("folder", REHEARSAL)
    assert distinct_prefixes([(1, 2, 3), (1, 2, 4), (2, 3), (1, 2)]) == 6


def test_a_profile_names_functions_by_their_file():
    profile = cProfile.Profile()
    profile.runcall(group_seeds, 0, "train", 0, ["a"] * 50, 8)
    assert list(profiled_seconds(profile)) == ["passk: seeds"]
