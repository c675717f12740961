"""A checkpoint that is not what was written is refused, and the whole one before it goes on."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import STEPS, WORDS, losses, without_paths
from small_runs import cut_short, snapshot, train

from passk.files import step_name
from passk.learner.checkpoint import damage


def flip_a_bit(file: Path, rng) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, rng) -> None:
    cut_short(file, rng.randrange(file.stat().st_size))


def remove(file: Path, rng) -> None:
    file.unlink()


DAMAGES: dict[str, Callable] = {
    "a flipped bit": flip_a_bit,
    "a truncated file": truncate,
    "a missing file": remove,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_is_refused_and_removing_it_goes_on(
    undisturbed, matrix, rng, is_whole_matrix, tmp_path, capsys, kind
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    last = run / "checkpoints" / step_name(STEPS)
    earlier = last.with_name(step_name(STEPS - 3))
    shutil.copytree(last, tmp_path / "last")
    tried, said = 0, ""
    files = sorted(path for path in last.rglob("*") if path.is_file())
    for file in files if is_whole_matrix or kind == "a flipped bit" else files[::4]:
        for _ in range(5 if is_whole_matrix and kind != "a missing file" else 1):
            DAMAGES[kind](file, rng)
            before = snapshot(run)
            assert train(run, *WORDS, "resume=true") == 2, file
            said = capsys.readouterr().err
            assert (
                said.startswith(f"passk: checkpoint {last} is damaged: ") and said.count("\n") == 1
            )
            # The list of files may have lost or changed the name of any of them.
            assert file.name in said or file.name == "files.json"
            assert f"{earlier.name} before it is whole: remove the damaged folder" in said
            assert snapshot(run) == before, "a refusal changes nothing"
            shutil.copyfile(tmp_path / "last" / file.relative_to(last), file)
            tried += 1
    DAMAGES[kind](last / "config.json", rng)
    shutil.rmtree(last)  # what the sentence says
    assert train(run, *WORDS, "resume=true") == 0
    said = re.sub(r"\d+ bytes where \d+ were", "N bytes where M were", said.strip())
    name = f"{kind} in the last checkpoint"
    matrix.add(name, losses(run, undisturbed), without_paths(said, run), tried=tried)


def test_a_list_of_files_that_is_not_what_was_written_never_passes_nor_crashes(
    undisturbed, rng, tmp_path
):
    """`files.json` has no hash of its own: a flip there refuses, or changes a space alone."""
    folder = tmp_path / step_name(STEPS)
    shutil.copytree(undisturbed / "checkpoints" / folder.name, folder)
    assert damage(folder) is None
    file = folder / "files.json"
    content = file.read_bytes()
    for _ in range(300):
        flip_a_bit(file, rng)
        if damage(folder) is None:
            assert json.loads(file.read_bytes()) == json.loads(content)
        file.write_bytes(content)
