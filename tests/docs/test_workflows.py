"""The workflow files of a fork: they call targets that exist, and may do no more than they must."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def jobs(workflow: Path) -> dict[str, dict]:
    return yaml.safe_load(workflow.read_text())["jobs"]


def made(text: str) -> list[str]:
    """The make targets that a script calls."""
    return re.findall(r"^make ([a-z0-9-]+)", text, re.MULTILINE)


def made_by(workflow: Path) -> list[str]:
    steps = [step for job in jobs(workflow).values() for step in job["steps"]]
    return [target for step in steps for target in made(step.get("run", ""))]


def test_there_are_two():
    assert [file.stem for file in WORKFLOWS] == ["ci", "reproduce"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_make_targets_exist(workflow):
    assert made_by(workflow) and set(made_by(workflow)) <= TARGETS


def test_the_fork_checks_what_ci_checks():
    assert set(made((ROOT / ".ci" / "run").read_text())) <= set(made_by(WORKFLOWS[0]))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_rights_least_and_time_bounded(workflow):
    whole = yaml.safe_load(workflow.read_text())
    assert whole["permissions"] == {"contents": "read"}
    assert whole["concurrency"]["cancel-in-progress"] is True
    for name, job in whole["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 60, name
        assert "permissions" not in job, name
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[a-z-]+@v\d+(\.\d+)*", action) for action in used), used
        (checkout,) = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout")]
        assert checkout["with"]["persist-credentials"] is False


def test_pythons_are_those_that_passk_runs_on():
    matrix = jobs(WORKFLOWS[0])["test"]["strategy"]["matrix"]["python"]
    least = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert matrix[0] == least[1] and all(isinstance(version, str) for version in matrix)
