"""The shape of the package: imports flow one way, engines stay optional, files stay small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "passk"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)
# A module imports from levels below its own only. A new module takes the lowest it can.
LEVELS = (
    (
        *("__init__", "answers.__init__", "sandbox.__init__", "errors", "types", "config"),
        *("seeds", "estimators", "statistics", "head", "attention", "worker_pool", "ranks"),
        *(
            "provenance",
            "theory",
            "voice",
            "free_settings",
            "numerals",
            "shell_words",
            "answers.text",
            "answers.forms",
            "answers.names",
        ),
    ),
    ("weight_files", "answers.numbers", "answers.spelling", "answers.units"),
    (
        *(
            "row_files",
            "eval_tables",
            "conventions",
            "advantages",
            "verifiers",
            "batch",
            "policy",
        ),
        *(
            "usage",
            "command_config",
            "exact_config",
            "sampler",
            "adapters",
            "layers",
            "memory",
            "disk",
            "streams",
            "limits",
            "clusters",
            "interference",
            "trackers",
            "spending",
            "reading",
            "chat",
            "codec",
            "typed_breaks",
        ),
        *("answers.reader", "sandbox.remote_values", "sandbox.landlock", "sandbox.seccomp", "toy"),
        "sandbox.program",
    ),
    (
        *(
            "rows",
            "row_cache",
            "rules",
            "records",
            "interrupt",
            "progress",
            "prompts",
            "toy_tables",
            "schemas",
            "answers.equality",
            "gold",
            "vllm_weights",
            "implied",
            "agreement",
            "persistence",
            "filtered_sets",
            "noisy_verifier",
            "objective",
            "ledger",
        ),
        *("sandbox.solution", "sandbox.remote", "sandbox.confinement", "sandbox.scratch"),
    ),
    (
        *("completion", "problems", "rollout", "torch_sampler", "vllm_sampler", "sharding"),
        *(
            "stream",
            "command_rules",
            "wording",
            "answers.algebra",
            "sandbox.judge",
        ),
        *("cells", "sweep_table"),
        *("tracking", "promised", "problem_files", "suspects", "injected", "remedies"),
        *("lineage", "card_prompts", "places"),
        "diagnoses",
    ),
    ("learner", "answers.worker", "sandbox.server"),
    (
        "sandbox.process",
        "diagnostics",
        "checkpoint",
        "sync",
        "launch",
        "evaluator",
        "composition",
        "baselines",
    ),
    (
        "math_verifier",
        "exact_verifier",
        "python_verifier",
        "verifier_checks",
        "directional",
        "metric",
        "sketch",
        "prompt_products",
    ),
    (
        "matrix",
        "experience",
        "build",
        "tables",
        "saving",
        "products",
        "sample_files",
        "repeats",
        "rebuild",
    ),
    ("run", "breakdown", "starting", "preparing", "costs", "verdict_shares", "sample_rows"),
    ("evaluation", "figure_style", "sheets", "diagnose_tables"),
    ("golds_page", "cost_words", "exports", "chart_style", "headline"),
    (
        *("train", "plots", "prompt_plots", "toy_plots", "weight_plot"),
        *("eval_plot", "sweep_plots", "verdict_plot", "report_page"),
        "diagnose_page",
        "interference_report",
    ),
    (
        *("reproduce", "toy_command", "explain", "diagnose_plots", "interference_plot"),
        *("filtered", "report_figures"),
    ),
    ("filtered_page", "filtered_plots", "report", "model_card"),
    ("diagnose", "filter_tables", "export"),
    ("filtering",),
    ("measure_commands",),
    ("commands", "sweep"),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
# What is read, checked and refused before torch is imported, and the numbers without tensors.
WITHOUT_TORCH = {"errors", "types", "config", "seeds", "estimators", "statistics", "advantages"}
WITHOUT_TORCH |= {"conventions", "problems", "verifiers", "rules", "composition", "cli", "records"}
WITHOUT_TORCH |= {"wording", "tables", "breakdown", "interrupt", "progress", "eval_tables", "gold"}
WITHOUT_TORCH |= {"rows", "worker_pool", "math_verifier", "exact_verifier", "python_verifier"}
WITHOUT_TORCH |= {"verifier_checks", "limits", "clusters", "implied", "explain", "weight_plot"}
WITHOUT_TORCH |= {
    "command_config",
    "command_rules",
    "exact_config",
    "theory",
    "toy",
    "toy_tables",
    "toy_command",
    "agreement",
}
WITHOUT_TORCH |= {
    "schemas",
    "completion",
    "usage",
    "ledger",
    "cells",
    "sweep_table",
    "sweep",
    "voice",
}
WITHOUT_TORCH |= {"interference", "interference_report", "interference_plot"}
WITHOUT_TORCH |= {"trackers", "tracking", "noisy_verifier", "suspects", "injected", "golds_page"}
WITHOUT_TORCH |= {"persistence", "problem_files", "filter_tables", "objective", "remedies"}
WITHOUT_TORCH |= {"diagnose_tables", "diagnose_page", "diagnose_plots", "promised", "filtered_sets"}
WITHOUT_TORCH |= {"lineage", "rebuild", "shell_words", "numerals", "row_files", "places"}
WITHOUT_TORCH |= {
    "diagnoses",
    "baselines",
    "costs",
    "cost_words",
    "verdict_shares",
    "repeats",
    "headline",
}
WITHOUT_TORCH |= {"sample_rows", "sample_files", "exports"}
WITHOUT_TORCH |= {name for name in MODULES if name.startswith(("answers.", "sandbox."))}


def source(name: str) -> Path:
    return PACKAGE / f"{name.replace('.', '/')}.py"


def tree(name: str) -> ast.Module:
    return ast.parse(source(name).read_text())


def imported(nodes) -> set[str]:
    """Full dotted names of what the nodes import; `from a import b` counts as a and a.b."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inside(nodes) -> set[str]:
    """The modules of passk among what the nodes import."""
    return {n.removeprefix("passk.") for n in imported(nodes)} & set(MODULES)


def roots(nodes) -> set[str]:
    return {dotted.split(".")[0] for dotted in imported(nodes)}


def at_import(node: ast.AST):
    """Every node that runs when the module is imported: not the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


def test_every_module_has_its_place():
    assert sorted(LEVEL_OF) == MODULES
    assert len(LEVEL_OF) == sum(map(len, LEVELS)), "a module is named twice"


@pytest.mark.parametrize("name", MODULES)
def test_imports_flow_one_way(name):
    upward = {other for other in inside(ast.walk(tree(name))) if LEVEL_OF[other] >= LEVEL_OF[name]}
    assert not upward, f"{name} (level {LEVEL_OF[name]}) imports {upward}"


def test_hydra_ends_at_the_door():
    users = {name for name in MODULES if roots(ast.walk(tree(name))) & {"hydra", "omegaconf"}}
    assert users == {"composition", "cli", "sweep"}


@pytest.mark.parametrize("name", MODULES)
def test_optional_packages_are_never_imported_with_the_module(name):
    optional = {"vllm", "trl", "wandb", "tensorboard", "trackio", "mlflow", "psutil", "peft"}
    optional |= {"submitit"}
    assert not roots(at_import(tree(name))) & optional


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_modules_that_do_without_torch(name):
    """Neither they nor what they import with themselves may need torch or transformers."""
    todo, seen = {name}, set()
    while todo:
        module = todo.pop()
        seen.add(module)
        nodes = list(at_import(tree(module)))
        assert not roots(nodes) & {"torch", "transformers"}, f"{name} -> {module}"
        todo |= inside(nodes) - seen


def test_only_the_command_layer_touches_the_process():
    """sys.argv, environment and exit belong to the command line, and to forks that must not
    return."""
    forks = {"sandbox.server", "sandbox.judge"}
    for name in set(MODULES) - {"cli", "__main__", "launch", "ranks", "cells"} - forks:
        words = {n.attr for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute)}
        assert not words & {"argv", "environ", "exit", "_exit"}, name


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_small(name):
    assert len(source(name).read_text().splitlines()) <= 500
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 70, f"{name}.{node.name}"


def test_no_module_is_named_after_nothing():
    empty_names = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base", "tools"}
    assert not empty_names & set(MODULES)
    assert not list(PACKAGE.rglob("utils*"))


@pytest.mark.parametrize("name", MODULES)
def test_public_things_are_documented(name):
    module = tree(name)
    assert ast.get_docstring(module), name
    for node in ast.walk(module):
        is_thing = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if is_thing and node in module.body and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name}"
