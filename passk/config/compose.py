r"""Compose YAML and overrides into checked plain dataclasses.

No module but this one and the command line imports hydra and omegaconf. A shell hands over a typed
`\n` as two characters, and LaTeX commands begin in the same way (`\nabla`, `\text`). `with_breaks`
keeps a known command, reads `\n` before anything but a small letter as a break, and refuses the
rest.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_origin

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from passk.config.commands import ExplainConfig
from passk.config.fields import check_fields
from passk.config.registry import DATA_SCHEMAS, SCHEMAS, conf_dir, groups, keys
from passk.config.rules import check, check_terms
from passk.config.schema import (
    VERIFIER_OF_DATA,
    ConventionsConfig,
    PromptConfig,
    RunConfig,
    TableConfig,
    TrainConfig,
    pass1_share,
    target_terms,
)
from passk.errors import UserError
from passk.files import broken, read_yaml

C = TypeVar("C", bound=RunConfig)


def _sft_or_rl(sft: Any, rl: Any, *, _root_: DictConfig) -> Any:
    return sft if OmegaConf.select(_root_, "regime.name") == "sft" else rl


def _chosen(group: str, *, _root_: DictConfig) -> str:
    return _root_.get(group) or "none"


@cache
def register() -> None:
    """Register the schemas, once, under the names that the `defaults` lists of `conf/` use.

    Also register two resolvers: `${sft_or_rl:A,B}`, for experiments, is A if the regime is `sft`,
    else B; `${chosen:GROUP}`, for defaults lists, is the option typed for a group, else none.
    """
    OmegaConf.register_new_resolver("sft_or_rl", _sft_or_rl, replace=True)
    OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for data_schema, data_name in ((ConventionsConfig, "conventions"), (TableConfig, "table")):
        store.store(group="data", name=f"{data_name}_schema", node=data_schema)


def to_config(composed: DictConfig) -> Any:
    """Convert a composed configuration into checked plain dataclasses of a class in `SCHEMAS`."""
    with_values = OmegaConf.to_object(composed)
    check_fields(with_values)  # `settle` relies on fields that are valid
    cfg = settle(with_values)
    check(cfg)
    return cfg


def check_groups(command: str, words: Sequence[str]) -> None:
    """Raise UserError for a group that is set to a number or a list, on which Hydra fails."""
    known = groups(command)
    for word in words:
        key, _, value = word.partition("=")
        options = known.get(key.lstrip("+")) if value else None
        if options and not re.match(r"[A-Za-z_\"'$*]", value):
            raise UserError(f"{word} is no option of {key}; allowed: {', '.join(options)}")


def settle(cfg: Any) -> Any:
    r"""Fill fields that follow from others, in place, and return the configuration.

    `eval.ks` gets 1 and the trained k, an `auto` verifier becomes the one of the data, and texts of
    prompts get the line breaks that were typed as `\n`. Beside `regime.ks`, `regime.k` becomes the
    largest of them and `regime.pass1_weight` the share of Pass@1 in the weights.
    """
    if isinstance(cfg, TrainConfig | ExplainConfig) and cfg.regime.ks is not None:
        check_terms(cfg.regime)
        terms = target_terms(cfg.regime)
        cfg.regime.k, cfg.regime.pass1_weight = terms[-1][0], pass1_share(terms)
    if isinstance(cfg, RunConfig):
        _read_breaks(cfg.data.prompt)
        ks = {1, *cfg.eval.ks}
        if isinstance(cfg, TrainConfig):
            if not isinstance(cfg.regime.pass1_weight, str):
                cfg.regime.pass1_weight = float(cfg.regime.pass1_weight)  # 1 is typed as an int
            if cfg.regime.name != "sft":
                ks.add(cfg.regime.k)
        cfg.eval.ks = sorted(ks)
        if cfg.verifier.name == "auto" and cfg.data.name in VERIFIER_OF_DATA:
            cfg.verifier.name = VERIFIER_OF_DATA[cfg.data.name]
    return cfg


def _read_breaks(prompt: PromptConfig) -> None:
    for name in ("template", "completion_template", "separator", "instruction", "system"):
        if text := getattr(prompt, name):
            setattr(prompt, name, with_breaks(f"data.prompt.{name}", text))
    prompt.stop = [with_breaks("data.prompt.stop", text) for text in prompt.stop]


def compose_train(overrides: Sequence[str]) -> TrainConfig:
    """Compose the configuration of `passk train OVERRIDES...`; Hydra must be initialised."""
    cfg = to_config(compose("train", overrides=list(overrides)))
    assert isinstance(cfg, TrainConfig)
    return cfg


def initialized() -> initialize_config_dir:
    """Return a context in which Hydra composes from our folder of configuration."""
    return initialize_config_dir(str(conf_dir().resolve()), "passk", "1.3")


def groups_and_keys(command: str, overrides: Sequence[str]) -> tuple[str, str]:
    """Return the texts of `--help`: a line per group with its options, and the YAML."""
    with initialized():
        composed = compose(command, overrides=list(overrides))
    lines = [f"{name}: {', '.join(options)}" for name, options in groups(command).items()]
    return "\n".join(lines), OmegaConf.to_yaml(composed)


def load_run_config(run_dir: Path) -> TrainConfig:
    """Load the configuration that a training run was started with, from its `config.yaml`."""
    return load_config(run_dir, TrainConfig)


def load_config(run_dir: Path, kind: type[C]) -> C:
    """Load `config.yaml` of a directory as a configuration of class `kind`.

    Raises UserError if the file is missing or broken, or sets a key that this version lacks.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run_dir} is not a run directory: it holds no config.yaml")
    saved = read_yaml(path)
    data = saved.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if name not in DATA_SCHEMAS:
        raise broken(path, f"has data.name={name}; allowed: {', '.join(DATA_SCHEMAS)}")
    schema = OmegaConf.structured(kind)
    schema.data = OmegaConf.structured(DATA_SCHEMAS[name])
    try:
        cfg = OmegaConf.to_object(OmegaConf.merge(schema, saved))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise UserError(
            f"{path} sets {error.full_key}, which this version of passk does not know; take the "
            "key out, or use the version of passk in the run's manifest.json"
        ) from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise broken(
            path, f"holds a value that is not allowed: {explain(error, 'train')}"
        ) from error
    assert isinstance(cfg, kind)
    return cfg


def explain(error: Exception, command: str) -> str:
    """Explain an error of Hydra or OmegaConf in one sentence that names key and choices."""
    if isinstance(error, OverrideParseException):
        return _explain_unread(error)
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = [name for name in error.options or () if not name.endswith("_schema")]
        allowed = ", ".join(options or groups(command).get(group, []))
        return f"{group}={option} is unknown; allowed: {allowed}"
    if "Config group override must be" in str(error):  # Hydra's own words for any value
        return f"{', '.join(groups(command))} take the name of an option, as --help lists them"
    chain = (error, error.__cause__, error.__context__)
    cause = next((e for e in chain if isinstance(e, OmegaConfBaseException)), None)
    if typed := re.search(r"Could not override '([^']+)'", str(error)):
        # The longer one is whole: `a.b=1` stops at an unknown a, `a={b: 1}` at an unknown a.b.
        stopped_at = getattr(cause, "full_key", None) or ""
        return _explain_unknown_key(max(typed[1], stopped_at, key=len), command)
    if cause is None:
        return " ".join(str(error).split())
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        if (command, cause.full_key) == ("explain", "train"):
            return "regime=sft weights no prompts; use regime=pass1, passk or hybrid"
        takes = ", ".join(field.name for field in fields(SCHEMAS[command]))
        lacking = f"a chosen option sets {cause.full_key}, which passk {command} lacks"
        return f"{lacking}; it takes: {takes}"
    reason = " ".join(str(cause).partition("\n    full_key: ")[0].split())
    return f"{cause.full_key}: {reason}" if cause.full_key else reason


def _explain_unread(error: OverrideParseException) -> str:
    """Explain how to write a word that Hydra's grammar does not accept."""
    key, sign, _ = error.override.partition("=")
    word = " ".join(error.override.split())
    if not sign:
        return f"{word} is no KEY=VALUE, and no option that passk knows"
    if not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key, flags=re.ASCII) or ".." in key:
        return f"{word} names no key; a key is written as in regime.k"
    return (
        f"{word} cannot be read; put texts with signs in quotes, within those of the shell: "
        f'\'{key}="TEXT"\', or \'{key}=["TEXT","TEXT"]\' for a list'
    )


def _explain_unknown_key(key: str, command: str) -> str:
    """Suggest the nearest known key, below the part of the key that is right."""
    if key.startswith("hydra."):
        return f"{key} is not a key of Hydra, or not one of the chosen hydra/launcher"
    known, path = keys(command), ""
    for part in key.split("."):
        below = (name.removeprefix(path) for name in known if name.startswith(path))
        names = list(dict.fromkeys(name.partition(".")[0] for name in below))
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1)
            hint = f"; did you mean {path}{near[0]}?" if near else ";"
            where = f"{path[:-1]} takes" if path else "it takes"
            return f"{key} is not a key of passk {command}{hint} {where}: {', '.join(names)}"
        here = f"{path}{part}"
        if here in known and get_origin(known[here].type) is dict:
            return f"{here} takes keys of your own, with a plus sign: +{here}.KEY=VALUE"
        path = f"{here}."
    return f"{key} cannot be set here: the chosen {key.partition('.')[0]} has no such field"


_BREAKS = {"n": "\n", "t": "\t"}
# A word that begins with n or t after a backslash, which may itself be escaped.
_TYPED = re.compile(r"(?P<escaped>\\)?\\(?P<letter>[nt])(?P<rest>[A-Za-z]*)")
# Commands of LaTeX and amsmath that begin with n or t and may occur in a prompt.
_LATEX = """
nabla natural ncong ne nearrow neg neq newcommand newline nexists ngeq ngeqq ngeqslant ngtr ni
nleftarrow nleftrightarrow nleq nleqq nleqslant nless nmid noindent nolimits nonumber norm not notag
notin nparallel nprec npreceq nrightarrow nshortmid nshortparallel nsim nsubseteq nsubseteqq nsucc
nsucceq nsupseteq nsupseteqq ntriangleleft ntrianglelefteq ntriangleright ntrianglerighteq nu nvdash
nvDash nVdash nVDash nwarrow nLeftarrow nLeftrightarrow nRightarrow
tag tan tanh tau tbinom text textbackslash textbf textcolor textdegree textdollar textit textmd
textnormal textrm textsc textsf textsl textstyle textsubscript textsuperscript texttt textup tfrac
therefore theta thickapprox thicksim thickspace thinspace tilde times tiny to top triangle
triangledown triangleleft trianglelefteq triangleq triangleright trianglerighteq tt
twoheadleftarrow twoheadrightarrow
"""
_COMMANDS = frozenset(_LATEX.split())


def with_breaks(key: str, text: str) -> str:
    r"""Replace `\n` and `\t`, as typed in `text`, by the characters that they mean.

    Two backslashes before n or t become one, and no break. Raises UserError, naming `key`, for a
    word that may be a break or a LaTeX command.
    """

    def read(found: re.Match[str]) -> str:
        word = found["letter"] + found["rest"]
        if found["escaped"]:
            return f"\\{word}"
        if word in _COMMANDS:
            return found[0]
        if found["rest"][:1].islower():
            raise UserError(
                rf"{key} holds \{word}, which may be a break before {found['rest']!r} or a command "
                rf"of LaTeX; write the break as a real one (bash: $'\{found['letter']}', YAML: in "
                rf"double quotes), or the command as \\{word}"
            )
        return _BREAKS[found["letter"]] + found["rest"]

    return _TYPED.sub(read, text)
