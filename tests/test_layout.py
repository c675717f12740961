"""The shape of the package and its tests; `make check` (import-linter) holds the order of rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "passk"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
TEST_FOLDERS = {"cli": "commands"}  # of rooms whose tests are in a folder of another name


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


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: not the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


# the package


def test_the_package_is_rooms_and_little_beside_them():
    assert len(list(PACKAGE.glob("*.py"))) <= 11
    assert len(ROOMS) in (12, 13)


def test_no_module_and_no_room_is_named_after_nothing():
    names = {word for name in MODULES for word in name.split(".")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("name", MODULES)
def test_optional_packages_are_never_imported_with_the_module(name):
    optional = {"vllm", "trl", "wandb", "tensorboard", "trackio", "mlflow", "psutil", "peft"}
    optional |= {"submitit"}
    assert not {dotted.split(".")[0] for dotted in imported(at_import(tree(name)))} & optional


def test_only_the_command_layer_touches_the_process():
    """sys.argv, environment and exit belong to the command line, and to forks that must not
    return."""
    command_layer = {"__main__", "cli.main", "cli.launch", "cli.sweep.runner", "cli.workers"}
    command_layer |= {"cli.slots", "ranks"}
    forks = {"verifiers.code.server", "verifiers.code.judge"}
    assert command_layer | forks <= set(MODULES)
    for name in set(MODULES) - command_layer - forks:
        words = {n.attr for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute)}
        assert not words & {"argv", "environ", "exit", "_exit"}, name


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_small(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 70, f"{name}.{node.name}"


@pytest.mark.parametrize("name", MODULES)
def test_public_things_are_documented(name):
    module = tree(name)
    assert ast.get_docstring(module), name
    for node in module.body:
        is_thing = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if is_thing and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name}"


# the tests


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_tests(room):
    assert list((TESTS / TEST_FOLDERS.get(room, room)).glob("test_*.py"))


def test_no_test_imports_another():
    """What several of them need is in a module that is no test, of `support/` or beside them."""
    files = sorted(TESTS.rglob("*.py"))
    tests = {file.stem for file in files if file.stem.startswith("test_")}
    for file in files:
        names = imported(ast.walk(ast.parse(file.read_text())))
        assert not tests & {word for name in names for word in name.split(".")}, file
