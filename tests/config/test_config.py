"""Every file of `conf/` composes; what is wrong is refused in a sentence, and without torch."""

import re
import subprocess
import sys
from dataclasses import asdict, fields
from itertools import product
from math import inf, nan

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from passk.config.commands import EvaluateConfig, ReproduceConfig
from passk.config.compose import explain, load_run_config, register, settle, to_config
from passk.config.fields import check_field
from passk.config.registry import SCHEMAS, conf_dir, keys
from passk.config.rules import check, claim_directory
from passk.config.schema import (
    ESTIMATOR_NAMES,
    REGIMES,
    ConventionsConfig,
    LearnerConfig,
    TableConfig,
    TrainConfig,
)
from passk.errors import UserError
from passk.objectives.advantages import ESTIMATORS
from passk.training.build import VERIFIERS, build_verifier

CONF = conf_dir()
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and p.name != "hydra")
OPTIONS = [
    (group, option.stem) for group in GROUPS for option in sorted((CONF / group).glob("*.yaml"))
]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF.resolve())):
        yield


def configured(*overrides, command="train"):
    return to_config(compose(command, overrides=list(overrides)))


def refusal(*overrides, command="train"):
    """The sentence with which a command line is refused."""
    with pytest.raises(UserError) as refused:
        configured(*overrides, command=command)
    return str(refused.value)


def test_there_are_groups_and_a_file_per_command():
    assert GROUPS == [
        "data", "debug", "eval", "experiment", "learner", "model", "regime", "rollout", "tracker",
        "verifier",
    ]  # fmt: skip
    assert {p.stem for p in CONF.glob("*.yaml")} == {*SCHEMAS, "run_directory"}


MEASURED = ("experiment", "math-diagnostic")  # of passk diagnose alone
TRAIN_OPTIONS = [choice for choice in OPTIONS if choice != MEASURED]
# passk eval trains nothing, so it has neither regimes nor experiments nor trackers.
TRAINING = ("regime", "experiment", "debug", "tracker")
EVAL_OPTIONS = [choice for choice in OPTIONS if choice[0] not in TRAINING]
DIAGNOSE_OPTIONS = [*EVAL_OPTIONS, MEASURED, ("debug", "cpu")]


@pytest.mark.parametrize(
    ("command", "group", "option"),
    [(command, *choice) for command in ("train", "reproduce") for choice in TRAIN_OPTIONS]
    + [("eval", *choice) for choice in EVAL_OPTIONS]
    + [("diagnose", *choice) for choice in DIAGNOSE_OPTIONS],
)
def test_every_option_of_every_group_composes(command, group, option):
    needed = ["verifier=exact"] if option == "jsonl" else []
    cfg = configured(f"{group}={option}", *needed, command=command)
    assert type(cfg) is SCHEMAS[command]
    if group in ("regime", "data"):
        assert getattr(cfg, group).name == option


@pytest.mark.parametrize(
    ("command", "experiment", "sets"),
    [
        ("train", "math-diagnostic", "diagnose"),
        ("reproduce", "math-diagnostic", "diagnose"),
        ("diagnose", "gsm8k-smollm2", "train"),
        ("diagnose", "smoke", "train"),
    ],
)
def test_an_experiment_of_another_command_is_refused(command, experiment, sets):
    with pytest.raises(COMPOSITION_ERRORS) as refused:
        compose(command, overrides=[f"experiment={experiment}"])
    sentence = explain(refused.value, command)
    assert sentence.startswith(f"a chosen option sets {sets}, which passk {command} lacks;")


def test_the_papers_diagnostic_and_its_small_form():
    """Section 5: 2,000 problems, 32 samples, T 0.7, top-p 0.95, three thresholds on either side."""
    words = ("experiment=math-diagnostic", "model.path=some/model")
    cfg = configured(*words, command="diagnose")
    assert (cfg.data.name, cfg.verifier.name) == ("math", "math")
    assert (cfg.diagnose.num_prompts, cfg.diagnose.num_samples) == (2000, 32)
    assert (cfg.rollout.temperature, cfg.rollout.top_p) == (0.7, 0.95)
    assert cfg.diagnose.filtered_sets[0] == [0.85, 0.1]
    pairs = {tuple(pair) for pair in cfg.diagnose.filtered_sets}
    assert pairs == {(easy, hard) for easy in (0.8, 0.85, 0.9) for hard in (0.05, 0.1, 0.15)}
    small = configured(*words, "debug=cpu", command="diagnose")
    assert small.diagnose.num_prompts < 100 and small.learner.device == "cpu"
    assert small.rollout.dtype is None and small.learner.compute_dtype is None
    assert small.diagnose.filtered_sets == cfg.diagnose.filtered_sets
    trained = configured("debug=cpu")
    assert (trained.train.num_steps, trained.rollout.max_new_tokens) == (2, 96)


def test_report_composes_with_directories_and_is_refused_without():
    assert configured('dirs=["a","b"]', command="report").dirs == ["a", "b"]
    assert "at least one run directory" in refusal(command="report")


def test_yaml_states_only_what_the_schema_knows():
    for _, option in OPTIONS:
        for file in CONF.rglob(f"{option}.yaml"):
            assert yaml.safe_load(file.read_text()) is not None, file


@pytest.mark.parametrize("group", ["model", "learner", "eval", "verifier", "rollout"])
def test_composed_defaults_are_those_of_the_dataclasses(group):
    plain = TrainConfig(data=ConventionsConfig(name="conventions"))
    assert asdict(getattr(configured(), group)) == asdict(getattr(settle(plain), group))


def test_composed_data_defaults_are_those_of_the_dataclass():
    assert configured().data == ConventionsConfig(name="conventions")
    assert configured("data=jsonl", "verifier=exact").data == TableConfig(
        name="jsonl", answer_tokens=256
    )


def test_reproduce_defaults_are_those_of_the_dataclass():
    cfg, plain = configured(command="reproduce"), ReproduceConfig()
    for name in ("seeds", "regimes", "sft_steps", "alignment_prompts", "alignment_samples"):
        assert getattr(cfg, name) == getattr(plain, name)


def test_names_agree_wherever_they_are_listed():
    assert set(REGIMES) == {p.stem for p in (CONF / "regime").glob("*.yaml")}
    assert set(ESTIMATOR_NAMES) == set(ESTIMATORS)
    assert set(VERIFIERS) == {p.stem for p in (CONF / "verifier").glob("*.yaml")} - {"auto"}
    for name in VERIFIERS:
        cfg = configured(f"verifier={name}")
        assert cfg.verifier.name == name
        build_verifier(cfg.verifier).close()
    for name in ESTIMATOR_NAMES:
        check_passes = configured(f"regime.estimator={name}", "regime=pass1", "regime.k=4")
        assert check_passes.regime.estimator == name


@pytest.mark.parametrize(
    ("regime", "k", "weight"), [("pass1", 8, 1.0), ("passk", 8, 0.0), ("hybrid", 8, 0.7)]
)
def test_regimes_are_one_objective_with_two_numbers(regime, k, weight):
    chosen = configured(f"regime={regime}").regime
    assert (chosen.name, chosen.k, chosen.pass1_weight) == (regime, k, weight)


def test_several_k_settle_the_two_numbers_that_describe_them():
    words = ["regime.ks=[1,4,12]", "regime.weights=[1,2,1]"]
    chosen = configured(*words)
    assert (chosen.regime.k, chosen.regime.pass1_weight) == (12, 0.25)
    assert chosen.eval.ks == [1, 2, 4, 8, 12, 16]
    again = configured(*words, "regime.k=12", "regime.pass1_weight=0.25")  # as it was saved
    assert again.regime == chosen.regime
    assert configured("regime.ks=[2,4]").regime.pass1_weight == 0
    explained = configured("regime.ks=[1,4]", command="explain").regime
    assert (explained.k, explained.pass1_weight) == (4, 0.5)


def test_sft_has_settings_of_its_own():
    cfg, rl = configured("regime=sft"), configured()
    assert cfg.regime.name == "sft"
    assert cfg.learner.lr > rl.learner.lr
    assert (
        cfg.train.num_steps
        == yaml.safe_load((CONF / "regime" / "sft.yaml").read_text())["train"]["num_steps"]
    )
    assert cfg.eval.every == cfg.train.num_steps  # at the start and at the end
    assert configured("regime=sft", "learner.lr=0.5", "train.num_steps=3").learner.lr == 0.5


def test_corpus_cue_follows_cue_unless_set():
    follows = configured("data.cue=0.5").data
    assert (follows.cue, follows.corpus_cue) == (0.5, 0.5)
    apart = configured("data.cue=1", "data.corpus_cue=0").data
    assert (apart.cue, apart.corpus_cue) == (1.0, 0.0)


def test_what_is_trained_is_evaluated_and_pass1_too():
    assert configured("regime.k=3", "eval.ks=[2]").eval.ks == [1, 2, 3]
    assert configured("eval.ks=[]", command="eval").eval.ks == [1]
    assert configured("regime=sft", "eval.ks=[2]").eval.ks == [1, 2], "sft trains no k"
    assert configured("regime=sft", "eval.ks=[2]", "eval.num_samples=8").eval.num_samples == 8


MISSPELT = [
    ("train", "regime.kk=3", "regime.kk", "did you mean regime.k?"),
    ("train", "learner.scedule=1", "learner.scedule", "did you mean learner.schedule?"),
    ("train", "regim.k=3", "regim.k", "did you mean regime?"),
    ("train", "train.num_step=3", "train.num_step", "did you mean train.num_steps?"),
    ("train", "data.calculator_fractions=1", "data.calculator_fractions", "calculator_fraction?"),
    ("eval", "runs=3", "runs", "did you mean run?"),
    ("reproduce", "seed=3", "seed", "did you mean seeds?"),
    ("train", "seeds=3", "seeds", "resume"),
    ("train", "train={sed: 3}", "train.sed", "did you mean train.seed?"),
]


@pytest.mark.parametrize(("command", "override", "key", "hint"), MISSPELT)
def test_misspelt_keys_are_named_with_a_suggestion(command, override, key, hint):
    with pytest.raises(COMPOSITION_ERRORS) as refused:
        compose(command, overrides=[override])
    sentence = explain(refused.value, command)
    assert sentence.startswith(f"{key} is not a key of passk {command}; ")
    assert hint in sentence
    assert "\n" not in sentence


WRONG_VALUES = [
    ("regime.k=abc", "regime.k", "Integer"),
    ("regime.k=1.5", "regime.k", "Integer"),
    ("regime.k=null", "regime.k", "not Optional"),
    ("resume=maybe", "resume", "bool"),
    ("eval.ks=3", "eval.ks", "list"),
    ("eval.ks=[1,x]", "eval.ks[1]", "Integer"),
    ("learner.lr=fast", "learner.lr", "Float"),
]


@pytest.mark.parametrize(("override", "key", "says"), WRONG_VALUES)
def test_wrong_types_are_named_with_the_key(override, key, says):
    with pytest.raises(COMPOSITION_ERRORS) as refused:
        compose("train", overrides=[override])
    sentence = explain(refused.value, "train")
    assert sentence.startswith(f"{key}: ")
    assert says in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("override", "choices"),
    [
        ("regime=pass2", "adaptive_k, curriculum, hybrid, pass1, passk, projected, sft"),
        ("regime=", "adaptive_k, curriculum, hybrid, pass1, passk, projected, sft"),
        ("data=gsm9k", "conventions, gsm8k, jsonl, math"),
        ("experiment=nope", "gsm8k-smollm2, math-diagnostic, smoke"),
        ("verifier=xx", "auto, conventions, exact, math, python"),
    ],
)
def test_unknown_options_are_answered_with_those_there_are(override, choices):
    with pytest.raises(COMPOSITION_ERRORS) as refused:
        compose("train", overrides=[override])
    assert explain(refused.value, "train") == f"{override} is unknown; allowed: {choices}"


@pytest.mark.parametrize(
    ("data", "override", "says"),
    [
        ("gsm8k", "data.promt_column=q", "did you mean data.prompt_column?"),
        ("conventions", "data.num_trian=1", "did you mean data.num_train?"),
        ("gsm8k", "data.num_train=1", "the chosen data has no such field"),
        ("conventions", "data.subset=x", "the chosen data has no such field"),
    ],
)
def test_fields_of_every_data_set_are_known(data, override, says):
    with pytest.raises(COMPOSITION_ERRORS) as refused:
        compose("train", overrides=[f"data={data}", override])
    assert says in explain(refused.value, "train")


BREAKS = {
    r"Question: {problem}\nAnswer:": "Question: {problem}\nAnswer:",
    r"{problem}\n\n": "{problem}\n\n",
    r"{problem}\n\tQ:\t": "{problem}\n\tQ:\t",
    r"\n{problem}\n- 1\n#### ": "\n{problem}\n- 1\n#### ",
    r"\text{{so}} \times \nabla \neq \nu {problem} \tau\theta": None,
    r"\frac{{1}}{{2}} \boxed{{}} \ \\ {problem} C:\dir \r": None,
    r"\nVdash \tfrac{{1}}{{2}}\ntriangleleft {problem}": None,
    r"\\norm{{x}} \\neq \\t {problem}": r"\norm{{x}} \neq \t {problem}",
}


@pytest.mark.parametrize("typed", BREAKS)
def test_line_breaks_may_be_typed_and_latex_stays(typed):
    read = BREAKS[typed] or typed
    assert configured(f"data.prompt.template='{typed}'").data.prompt.template == read
    assert configured(f'data.prompt.template="{typed}"').data.prompt.template == read
    bare = typed.replace("{problem}", "")
    texts = configured(*(f"data.prompt.{key}='{bare}'" for key in ("instruction", "separator")))
    assert texts.data.prompt.instruction == read.replace("{problem}", "")
    assert texts.data.prompt.separator == read.replace("{problem}", "")


def test_typed_breaks_of_stop_texts():
    stop = configured(
        r'data.prompt.stop=["\nQuestion:","\n\n", \n, "\t", "\\nabla"]'
    ).data.prompt.stop
    assert stop == ["\nQuestion:", "\n\n", "\n", "\t", r"\nabla"]
    assert configured("data=gsm8k").data.prompt.stop == ["\nQuestion:"]


@pytest.mark.parametrize("word", [r"\nanswer", r"\norma", r"\tthe", r"\nnot", r"\textual"])
def test_what_may_be_a_break_or_a_command_is_refused(word):
    said = refusal(f"data.prompt.template='{{problem}}{word} x'")
    assert said.startswith(f"data.prompt.template holds {word}, which may be a break before")
    assert said.endswith(f"or the command as \\{word}")
    assert refusal(f"data.prompt.stop=['{word}']").startswith("data.prompt.stop holds")


def test_empty_stop_texts_and_what_is_no_date_are_refused():
    assert "data.prompt.stop holds the empty text" in refusal('data.prompt.stop=["a",""]')
    assert configured("data.prompt.date=2026-11-29").data.prompt.date == "2026-11-29"
    for wrong in ("29.11.2026", "2026-13-01", "today", '""'):
        assert "is no date; write it as YYYY-MM-DD" in refusal(f"data.prompt.date={wrong}")


def test_braces_that_are_signs_are_written_twice():
    template = r"{problem} Use \boxed{{}}."
    assert configured(f"data.prompt.template='{template}'").data.prompt.template == template


def test_interpolation_to_nowhere_is_an_omegaconf_error_in_one_line():
    with pytest.raises(OmegaConfBaseException) as refused:
        configured("regime.k=${nowhere}")
    assert "nowhere" in explain(refused.value, "train")
    assert "\n" not in explain(refused.value, "train")


RULES = [
    (["regime.k=32", "eval.num_samples=128"], "regime.k=32", "no unbiased estimator"),
    (["regime.k=17", "eval.num_samples=128"], "rollout.num_samples=16", "no unbiased estimator"),
    (["eval.ks=[1,32]"], "eval.num_samples=64", "eval.num_samples=128"),
    (["eval.ks=[0,1]"], "eval.ks=[0, 1", "from 1 on"),
    (["data.calculator_fraction=1.2"], "data.calculator_fraction=1.2", "between 0 and 1"),
    (["data.cue=-0.1"], "data.cue=-0.1", "between 0 and 1"),
    (["regime.pass1_weight=1.01"], "regime.pass1_weight=1.01", "between 0 and 1"),
    (["regime.pass1_weight=nan"], "regime.pass1_weight=nan", "between 0 and 1"),
    (["data.calculator_fraction=1"], "data.calculator_fraction + data.skill_fraction", "at most 1"),
    (["data.corpus_skill_fraction=0.95"], "data.corpus_skill_fraction", "at most 1"),
    (["regime.estimator=grpo"], "regime.estimator=grpo", "pass1_weight=1"),
    (["regime.estimator=dr_grpo"], "regime.estimator=dr_grpo", "pass1_weight=1"),
    (["regime.estimator=maxrl", "regime=passk"], "regime.estimator=maxrl", "pass1_weight=1"),
    (["regime.estimator=best"], "regime.estimator=best", "mixture, grpo"),
    (["regime.estimator=s_loo", "regime.k=16"], "s_loo needs regime.k <=", "15"),
    (["regime.estimator=leave_two_out", "regime.k=16"], "leave_two_out needs regime.k <=", "15"),
    (["regime.estimator=rs_grpo"], "regime.estimator=rs_grpo", "pass1_weight=1"),
    (["regime.estimator='mine.py'"], "regime.estimator=mine.py is unknown", "FILE.py:FUNCTION"),
    (["regime.estimator='mine.py:f'"], "mine.py:f knows no k", "pass1_weight=1"),
    (["regime.beta=0"], "regime.beta=0", "above 0"),
    (["regime.beta=101"], "regime.beta=101", "at most 100"),
    (["regime.weights=[1]"], "regime.weights=[1.0]", "needs the k of each weight"),
    (["regime.ks=[]"], "regime.ks=[]", "each once, ascending"),
    (["regime.ks=[4,1]"], "regime.ks=[4, 1]", "ascending"),
    (["regime.ks=[1,1]"], "regime.ks=[1, 1]", "each once"),
    (["regime.ks=[0,4]"], "regime.ks=[0, 4]", "from 1 on"),
    (["regime.ks=[1,4]", "regime.weights=[1]"], "regime.weights=[1.0]", "one for each k"),
    (["regime.ks=[1,4]", "regime.weights=[1,0]"], "regime.weights=[1.0, 0.0]", "above 0"),
    (["regime.ks=[1,4]", "regime.weights=[1,nan]"], "regime.weights=[1.0, nan]", "above 0"),
    (["regime.ks=[1,4]", "regime.weights=[1,inf]"], "regime.weights=[1.0, inf]", "above 0"),
    (["regime.ks=[1,4]", "regime=passk"], "regime.ks=[1, 4]", "regime=hybrid only"),
    (["regime.ks=[1,4]", "regime=sft"], "regime.ks=[1, 4]", "regime=hybrid only"),
    (["regime.ks=[1,4]", "regime=projected"], "regime.ks=[1, 4]", "regime=hybrid only"),
    (["regime.ks=[1,4]", "regime.k=5"], "regime.k=5", "largest of these"),
    (["regime.ks=[1,4]", "regime.pass1_weight=0.3"], "regime.pass1_weight=0.3", "regime.weights"),
    (["regime.ks=[1,4]", "regime.estimator=grpo"], "regime.estimator=grpo", "pass1_weight=1"),
    (["regime.ks=[1,32]", "eval.num_samples=128"], "regime.k=32", "no unbiased estimator"),
    (["diagnostics.num_samples=15"], "diagnostics.num_samples=15", "two halves of 8"),
    (["diagnostics.num_samples=16", "regime.estimator=s_loo"], "diagnostics.num_samples=16", "18"),
    (["diagnostics.num_samples=3", "regime.k=1"], "diagnostics.num_samples=3", "two halves of 2"),
    (["diagnostics.num_prompts=15"], "diagnostics.num_prompts=15", "num_blocks=16"),
    (["diagnostics.num_blocks=2"], "diagnostics.num_blocks=2", "at least 3"),
    (["rollout.num_samples=1", "regime.k=1"], "rollout.num_samples=1", "at least 2"),
    (["rollout.engine=sglang"], "rollout.engine=sglang", "auto, torch"),
    (["learner.device=tpu"], "learner.device=tpu", "auto, cpu, cuda"),
    (["learner.schedule=step"], "learner.schedule=step", "constant, linear, cosine"),
    (["learner.lr=0"], "learner.lr=0", "above 0"),
    (["learner.max_grad_norm=-1"], "learner.max_grad_norm=-1", "above 0"),
    (["learner.betas=[0.9]"], "learner.betas=[0.9]", "two numbers"),
    (["learner.betas=[0.9,1.0]"], "learner.betas=[0.9, 1.0]", "below 1"),
    (["rollout.temperature=0"], "rollout.temperature=0", "above 0"),
    (["train.num_steps=0"], "train.num_steps=0", "at least 1"),
    (["train.keep_last=0"], "train.keep_last=0", "at least 1"),
    (["num_threads=0"], "num_threads=0", "at least 1"),
    (["regime.name=reinforce"], "regime.name=reinforce", "sft, pass1, passk, hybrid"),
    (["data.name=jsonl", "verifier=exact"], "data.name=jsonl", "data=jsonl"),
    (["data.prompt.template=x"], "data.prompt.template='x'", "must hold {problem} and no other"),
    (["data.prompt.template='{problem} {n}'"], "data.prompt.template", "no other field"),
    (["data.prompt.template='{problem!r}'"], "data.prompt.template", "no other field"),
    (["data.prompt.template='{problem} {'"], "data.prompt.template", "written twice: {{ and }}"),
    (["data.prompt.completion_template=''"], "data.prompt.completion_template", "{solution}"),
    (["data.prompt.style=chatml"], "data.prompt.style=chatml", "plain, chat, auto"),
    (["+unknown=1"], "unknown is not a key", "model, data"),
    (["+regime.gamma=1"], "regime.gamma is not a key", "pass1_weight"),
    (["train.init_from=/no/such/run"], "train.init_from=/no/such/run", "run directory"),
]


@pytest.mark.parametrize(("overrides", "names", "says"), RULES)
def test_rules_between_fields_are_sentences(overrides, names, says):
    sentence = refusal(*overrides)
    assert names in sentence
    assert says in sentence
    assert "\n" not in sentence


REPRODUCE_RULES = [
    (["regimes=[passk,foo]"], "regimes=['passk', 'foo']", "pass1, passk, hybrid"),
    (["regimes=[sft]"], "regimes=['sft']", "sft always comes first"),
    (["regimes=[]"], "regimes=[]", "pass1, passk, hybrid"),
    (["seeds=0"], "seeds=0", "at least 1"),
    (["sft_steps=0"], "sft_steps=0", "at least 1"),
    (["alignment_samples=15"], "alignment_samples=15", "16"),
    (["alignment_samples=2", "regime.k=1"], "alignment_samples=2", "at least 4"),
    (["alignment_prompts=15"], "alignment_prompts=15", "num_blocks=16"),
    (["regime.ks=[1,4]"], "regime.ks=[1, 4]", "goes with passk train"),
]


@pytest.mark.parametrize(("overrides", "names", "says"), REPRODUCE_RULES)
def test_rules_of_reproduce_are_sentences(overrides, names, says):
    sentence = refusal(*overrides, command="reproduce")
    assert names in sentence
    assert says in sentence


def test_eval_refuses_a_run_that_does_not_exist():
    assert "run=/no/such/run does not exist" in refusal("run=/no/such/run", command="eval")


@pytest.mark.parametrize(
    "overrides",
    [
        ["regime=sft", "regime.k=64"],
        ["regime.k=16"],
        ["regime.k=1", "rollout.num_samples=2", "diagnostics.num_samples=4"],
        ["diagnostics.num_samples=2", "diagnostics.every=0"],
        ["data.calculator_fraction=0.5", "data.skill_fraction=0.5"],
        ["regime=pass1", "regime.estimator=grpo"],
        ["regime.estimator=s_loo", "regime.k=15"],
        ["learner.betas=[0,0.5]"],
    ],
)
def test_what_is_just_allowed_is_allowed(overrides):
    assert isinstance(configured(*overrides), TrainConfig)


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ("{data: {name: conventions}, foo: 1}", "sets foo, which this version of passk"),
        ("{data: {name: jsonl, num_train: 1}}", "sets data.num_train, which this version of passk"),
        ("{data: {name: conventions}, regime: {kk: 1}}", "sets regime.kk, which this version"),
        (
            "{data: {name: conventions}, regime: {k: x}}",
            "a value that is not allowed: regime.k: Value",
        ),
        ("{data: {name: gsm9k}}", "has data.name=gsm9k; allowed: conventions, gsm8k"),
    ],
)
def test_a_saved_configuration_with_what_is_unknown_is_refused(tmp_path, saved, says):
    (tmp_path / "config.yaml").write_text(saved)
    with pytest.raises(UserError) as refused:
        load_run_config(tmp_path)
    assert says in str(refused.value)


def test_rules_hold_for_configurations_made_by_hand():
    check(settle(TrainConfig(data=ConventionsConfig(name="conventions"), regime=_hybrid())))
    with pytest.raises(UserError, match=r"learner\.lr=-1"):
        check(TrainConfig(regime=_hybrid(), learner=LearnerConfig(lr=-1.0)))
    with pytest.raises(UserError, match="run=/no/such"):
        check(settle(EvaluateConfig(run="/no/such", data=ConventionsConfig(name="conventions"))))


def _hybrid():
    return configured().regime


def test_a_directory_with_something_in_it_is_not_claimed(tmp_path):
    claim_directory(tmp_path / "new", resume=False)
    claim_directory(tmp_path, resume=False)
    with pytest.raises(UserError, match="holds no run to resume"):
        claim_directory(tmp_path, resume=True)
    (tmp_path / "config.yaml").touch()
    claim_directory(tmp_path, resume=True)
    with pytest.raises(UserError, match="not empty"):
        claim_directory(tmp_path, resume=False)


HEAVY = ("torch", "transformers", "pandas", "pyarrow", "scipy", "altair")


@pytest.mark.parametrize(
    "module", ["config.schema", "config.rules", "config.compose", "cli.main", "errors"]
)
def test_configuration_is_checked_without_heavy_imports(module):
    code = f"import sys, passk.{module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_config_needs_nothing_but_the_standard_library():
    code = "import sys, passk.config.schema; "
    code += "print([m for m in ('hydra', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_field_has_a_default():
    for schema in SCHEMAS.values():
        assert schema() == schema(), [field.name for field in fields(schema)]


NUMBERS = {  # every key that takes a number
    key
    for command in SCHEMAS
    for key, field in keys(command).items()
    if field.type in (int, float, int | None, float | None)
}
# As large as one likes, as long as it is finite.
FREE_ABOVE = (
    *("learner.lr", "learner.weight_decay", "learner.eps", "learner.max_grad_norm"),
    *("rollout.importance_cap", "rollout.max_logprob_gap", "toy.step_size"),
)
OF_RULES = ("regime.level", "toy.delta", "toy.p_hard")  # bounded in rules.py


@pytest.mark.parametrize("key", sorted(NUMBERS - set(OF_RULES)))
def test_every_number_has_bounds(key):
    """What no library takes is refused here: not after all steps were trained."""
    assert len(NUMBERS) > 80
    declared = [keys(command)[key] for command in SCHEMAS if key in keys(command)]
    too_large = [] if key in FREE_ABOVE else [10**400, 2**64]
    for field, value in product(declared, (nan, inf, -inf, -1, -(10**400), *too_large)):
        with pytest.raises(UserError, match=f"^{re.escape(key)}={value} (is too|must)"):
            check_field(key, field, value)
