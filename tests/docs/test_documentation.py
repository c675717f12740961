"""The documents are true: their commands run, and what they name is there.

A new document needs nothing here while its blocks of commands are marked `bash` and its
placeholders are those of PLACEHOLDERS. What cannot run on any machine goes into ONLY_COMPOSED.
"""

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import documents
import pytest
from documented import MINIMAL, Places
from documents import ROOT, Command
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from passk.cli.main import HELP, main
from passk.config.compose import register, to_config
from passk.config.registry import DATA_SCHEMAS, SCHEMAS, conf_dir, groups
from passk.config.schema import FREE_ON_RESUME

# What is put in the place of what a document leaves open: attributes of `documented.Places`.
PLACEHOLDERS = {
    "data.path=FOLDER_WITH_MATH": "data.path={problems}",
    "data.path=FOLDER": "data.path={problems}",
    "data.path=train.jsonl": "data.path={training_file}",
    "data.path=mine.jsonl": "data.path={training_file}",
    "data.eval_path=heldout.jsonl": "data.eval_path={heldout_file}",
    "data.eval_path=test.jsonl": "data.eval_path={heldout_file}",
    "model.path=FOLDER_OR_HUB_ID": "model.path={model}",
    "model.path=DIR_OR_HUB_ID": "model.path={model}",
    "model.path=FOLDER": "model.path={model}",
    "models/smollm2-135m": "{model}",
    "MODEL": "{model}",
    "RUN_OR_SWEEP": "{run}",
    "RUN": "{run}",
    "OTHER": "{other_run}",
    "run=DIR": "run={run}",
    "SWEEP": "{sweep}",
    "FILTER": "{filtered}",
    "a.csv": "{counts}",
    "b.jsonl": "{counts}",
    "out=FOLDER": "out={here}",
    # Of a page whose steps follow each other:
    "outputs/tutorial/sft": "{run}",
    "outputs/tutorial/passk": "{other_run}",
    "outputs/tutorial/hybrid": "{other_run}",
    "outputs/tutorial/pass1": "{other_run}",
    "outputs/tutorial/without": "{other_run}",
    "outputs/tutorial/filter": "{filtered}",
}
# Words whose commands are composed and checked, and not run, and why.
ONLY_COMPOSED = {
    "rollout=vllm": "vLLM is not in this environment; `make test-vllm` runs it",
    "hydra/launcher=submitit_slurm": "no Slurm; test_clusters.py runs cells as jobs without it",
    "learner.num_processes=4": "starts four processes; test_rank_runs.py runs two",
}
REFUSED = {"passk train regime.k=abc"}  # documents say that these are
# Programs that are not ours.
OTHERS = {"cd", "eval", "git", "head", "hf", "lm_eval", "pip", "scontrol", "source"}
# The page that explains a command in full.
PAGES = {
    "train": "docs/guide/train.md",
    "eval": "docs/guide/evaluate.md",
    "reproduce": "docs/guide/train.md",
    "report": "docs/guide/report_and_export.md",
    "compare": "docs/guide/evaluate.md",
    "diagnose": "docs/guide/diagnose.md",
    "filter": "docs/guide/diagnose.md",
    "export": "docs/guide/report_and_export.md",
    "toy": "docs/method/toy.md",
    "explain": "docs/reference/estimators.md",
    "sweep": "docs/guide/sweeps.md",
}
COMMANDS = [word for word in re.findall(r"^  ([a-z]+) ", HELP, re.MULTILINE) if word != "passk"]
FOUND = tuple(documents.commands())


def test_commands_are_found_and_stand_where_they_are_found():
    pages = {command.where.split(":")[0] for command in FOUND}
    assert pages > {"README.md", "docs/guide/diagnose.md"}
    assert not list(documents.unmarked()), "blocks of commands begin with ```bash"
    programs = {command.words[0] for command in FOUND}
    assert programs <= {"passk", "make", "python"} | OTHERS


# passk


def bound(words: tuple[str, ...]) -> tuple[str, ...]:
    """Words with the names of places where the document has placeholders."""
    for placeholder, place in PLACEHOLDERS.items():
        pattern = rf"(?<![\w/]){re.escape(placeholder)}(?![A-Z_])"
        words = tuple(re.sub(pattern, lambda _, place=place: place, word) for word in words)
    return tuple(re.sub(r"^(hydra\.run\.dir)=.*", r"\1={here}", word) for word in words)


def is_mention(command: Command) -> bool:
    """Whether a text only names a command, as in `passk train` or `passk sweep status`."""
    return not command.in_block and all(word.isalpha() for word in command.words)


OURS = [command for command in FOUND if command.words[0] == "passk"]
RUN = {bound(command.words): command for command in reversed(OURS) if not is_mention(command)}
RUN = dict(reversed(RUN.items()))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Places:
    return Places(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """The configurations that have run: documents say many things more than once."""
    return set()


def filled(words: tuple[str, ...], places: Places, here: Path) -> list[str]:
    """The words after `passk`, with real things in the place of what documents leave open."""
    out = []
    for word in words[1:]:
        assert not re.search(r"\b[A-Z]{2,}", word), f"{word}: PLACEHOLDERS lacks it"
        named = re.findall(r"\{(\w+)\}", word)
        stand_ins = {name: here if name == "here" else getattr(places, name) for name in named}
        out.append(word.format(**stand_ins) if named else word)
    return out


def composed(command: str, words: Iterable[str]) -> str:
    """The configuration of a command, composed and checked, as text; of a sweep, its first cell."""
    register()
    overrides = [next(cells(word)) for word in words if not word.startswith("-")]
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        configuration = compose(command, overrides=overrides)
    to_config(configuration)
    return f"{command} {OmegaConf.to_yaml(configuration)}"


def cells(override: str) -> Iterator[str]:
    """An override as it is, or those of a sweep over it."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return iter([override])
    return (f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator())


def first_cell(words: list[str]) -> list[str]:
    """A sweep of one cell in the place of a longer one: test_sweep.py has several."""
    first = [word if word.startswith("-") else next(cells(word)) for word in words]
    return [*first, "hydra.sweep.subdir=${hydra.job.num}"]


def other_cells(words: list[str]) -> Iterator[list[str]]:
    """The lines of a sweep's other cells, in which one of the words differs from the first."""
    single = [word for word in words if not word.startswith(("-", "sweep.", "hydra"))]
    for place, word in enumerate(single):
        for cell in list(cells(word))[1:]:
            yield [*single[:place], cell, *single[place + 1 :]]


@pytest.mark.parametrize("words", RUN, ids=lambda words: str(RUN[words]))
def test_command_of_passk(words, places, seen, tmp_path, monkeypatch, capfd):
    """To its end, with its sizes made small; each configuration once, and of a sweep one cell."""
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "here"
    command, *rest = filled(words, places, here)
    refused = " ".join(RUN[words].words) in REFUSED
    small = [*rest, *places.smaller(command, rest)]
    if (
        command in COMMANDS
        and {"--help", "--cfg"}.isdisjoint(rest)
        and command not in ("report", "compare", "sweep")
    ):
        if not refused and MINIMAL & {word.split("=")[0] for word in rest}:
            composed(command, rest)  # what is typed is allowed, too
        if set(rest) & set(ONLY_COMPOSED):
            composed(command, small)
            return
        if not refused and {"-m", "--resume"}.isdisjoint(rest):
            configuration = composed(command, small)
            if configuration in seen:
                return
            seen.add(configuration)
    if "--resume" in rest:
        kept = [word for word in rest if not word.startswith(("--resume", "hydra.run.dir"))]
        places.unfinished(here, command, kept)
    if "-m" in rest:
        for cell in other_cells(rest):
            composed(command, cell)
        small = first_cell(small)
        if shlex.join(small) in seen:
            return
        seen.add(shlex.join(small))
    capfd.readouterr()
    code = main([command, *small])
    outcome = capfd.readouterr()
    assert code == (2 if refused else 0), outcome.err
    assert "Traceback" not in outcome.err


def test_exceptions_are_needed():
    typed = {word for command in OURS for word in command.words}
    assert set(ONLY_COMPOSED) <= typed, "no document has these any more"
    assert {" ".join(command.words) for command in OURS} >= REFUSED


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page(command):
    page = ROOT / PAGES[command]
    assert f"passk {command}" in page.read_text()


def test_mentioned_commands_exist():
    mentioned = {command.words[1] for command in OURS if is_mention(command)}
    assert mentioned <= {*COMMANDS, "completion"}
    assert set(PAGES) == set(COMMANDS)


# the configuration


CONFIGURATION = ROOT / "docs" / "reference" / "configuration.md"


def rows_below(heading: str) -> list[list[str]]:
    """The code spans of each row of the first table below a heading of the configuration's page."""
    section = CONFIGURATION.read_text().partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)
    assert table, heading
    return [re.findall(r"`([\w.-]+)`", row) for row in table[0].splitlines()[2:]]


def test_page_of_the_configuration_lists_every_option():
    known = groups("train") | {"experiment": groups("diagnose")["experiment"]}
    for group, *named in rows_below("Groups"):
        assert set(named) >= set(known[group]), f"{group} has an option that is not listed"
    others = {"model", "learner", "eval"}  # each has a single option
    assert {group for group, *_ in rows_below("Groups")} == known.keys() - others


def test_page_of_the_configuration_lists_what_may_change_on_resuming():
    listed = {key for row in rows_below("What may change when a run is resumed") for key in row}
    assert set(FREE_ON_RESUME) - {"resume"} <= listed
    others = {
        key for key in listed - set(FREE_ON_RESUME) if not key.startswith(("eval.", "filter."))
    }
    assert others == {"tracker"}


# other programs


def test_make_targets_exist():
    targets = sorted({c.words[1] for c in FOUND if c.words[0] == "make"})
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scripts_exist_and_know_their_flags():
    for command in FOUND:
        if command.words[0] != "python":
            continue
        files = [word for word in command.words if word.endswith(".py")]
        assert files, command
        for file in files:
            text = (ROOT / file).read_text()
            compile(text, file, "exec")
            if file.startswith("scripts/"):
                flags = [word for word in command.words if word.startswith("--")]
                named = re.findall(r"^from (\w+) import", text, flags=re.MULTILINE)
                for module in named:
                    beside = (ROOT / "scripts").rglob(f"{module}.py")
                    text += "".join(part.read_text() for part in beside)
                assert all(knows(text, flag) for flag in flags), command


def knows(script: str, flag: str) -> bool:
    """Whether a script names a flag, or there is a field that one is made of."""
    return f'"{flag}"' in script or f" {flag[2:].replace('-', '_')}: " in script


PYTHON = [code for code in documents.codes() if code.language == "python"]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.where)
def test_python_runs(code, places):
    exec(compile(code.text.replace("DIR", str(places.evaluation)), code.where, "exec"), {})


# what is named


def test_links_and_images_lead_somewhere():
    for file, target in documents.links():
        path, _, anchor = target.partition("#")
        leads_to = file.parent / path if path else file
        assert leads_to.exists(), f"{documents.name(file)}: {target}"
        if anchor:
            assert anchor in documents.anchors(leads_to), f"{documents.name(file)}: {target}"


def test_pages_that_code_names_exist():
    """In strings, docstrings and comments."""
    files = [
        ROOT / "Makefile",
        *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*")),
    ]
    for file in files:
        if file.suffix in ("", ".py", ".yaml", ".yml", ".j2") and file.is_file():
            for page in re.findall(r"docs/[\w/]+\.md", file.read_text()):
                assert (ROOT / page).is_file(), f"{documents.name(file)}: {page}"


def test_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    listed = {
        (index.parent / target).resolve() for file, target in documents.links() if file == index
    }
    assert listed >= set(documents.DOCUMENTS) - {ROOT / "CONTRIBUTING.md", index}


SPANS = [code for code in documents.codes() if code.language is None]
FILE_ENDINGS = ("py", "jsonl", "json", "csv", "md", "yaml", "parquet", "png", "pdf", "html", "txt")
FILE_ENDINGS += ("npy", "safetensors", "toml", "gguf", "svg", "xml", "tex", "yml")
FOLDERS = ("passk", "conf", "docs", "scripts", "tests", ".github")


def is_key(dotted: str) -> bool:
    """Whether some command's configuration has this key."""
    return any(reaches(schema(), dotted.split(".")) for schema in SCHEMAS.values())


def reaches(node, parts: list[str]) -> bool:
    if not parts or isinstance(node, dict):
        return True
    nodes = [node]
    if isinstance(node, tuple({base for s in DATA_SCHEMAS.values() for base in s.__mro__[:2]})):
        nodes = [schema() for schema in DATA_SCHEMAS.values()]
    return any(
        field.name == parts[0] and reaches(getattr(n, field.name), parts[1:])
        for n in nodes
        if is_dataclass(n)
        for field in fields(n)
    )


PACKAGE = ROOT / "passk"
# The files of passk by their dotted names; that of a room is its `__init__`.
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def modules_called(name: str) -> list[Path]:
    """The files that `passk.room.module` may be, written in full or from a part of it on."""
    exact = name.startswith("passk.")
    name = name.removeprefix("passk.")
    return [
        file
        for module, file in MODULES.items()
        if module == name or (not exact and module.endswith(f".{name}"))
    ]


def in_module(dotted: str) -> bool:
    """Whether passk has this module, or a module of it has this name."""
    module, _, name = dotted.rpartition(".")
    holds = re.compile(rf"\b{name}\b")
    return bool(modules_called(dotted)) or any(
        holds.search(file.read_text()) for file in modules_called(module)
    )


def test_keys_and_names_exist():
    """Also as `room/module.name`, which is how pages say where a thing is."""
    groups = {field.name for schema in SCHEMAS.values() for field in fields(schema)}
    modules = {name.rpartition(".")[2] for name in MODULES} | {"passk"}
    rooms = {".".join(file.parent.relative_to(PACKAGE).parts) for file in MODULES.values()} - {""}
    for code in SPANS:
        folder, _, rest = code.text.rpartition("/")
        room = folder.replace("/", ".")
        text = f"{room}.{rest}" if room in rooms else code.text
        found = re.fullmatch(r"[+~]?([a-z_]\w*(?:\.\w+)+)(=.*)?", text)
        if not found or found[1].rpartition(".")[2] in FILE_ENDINGS:
            continue
        if found[1].split(".")[0] in groups | modules:
            assert is_key(found[1]) or in_module(found[1]), f"{code.where}: {code.text}"


def test_options_of_groups_exist():
    for code in SPANS:
        found = re.fullmatch(r"([a-z]+)=([\w-]+)", code.text)
        if found and (conf_dir() / found[1]).is_dir() and not found[2].isupper():
            assert (conf_dir() / found[1] / f"{found[2]}.yaml").is_file(), (
                f"{code.where}: {code.text}"
            )


def test_files_exist():
    for code in SPANS:
        path = code.text.rstrip("/")
        if not re.fullmatch(r"[\w./-]+", path) or re.search(r"[A-Z]{3}", Path(path).name):
            continue
        if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            assert (ROOT / path).exists() or Path(path).suffix == "", f"{code.where}: {path}"
        elif "/" not in path and path.endswith(".py"):
            assert any((ROOT / folder).rglob(path) for folder in FOLDERS), f"{code.where}: {path}"
