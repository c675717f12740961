"""Prompts and completions as tokens: plain, with shots, and by chat templates written by hand.

The tokenizer here knows every byte and a few special tokens, so that tokens are text.
"""

from dataclasses import replace
from datetime import date

import pytest
from chat_templates import BOS, CHATML, EOS, EOT, IM_END, LLAMA3, tokenizer
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from passk.config.schema import PromptConfig
from passk.data.prompts import (
    PromptEncoder,
    check_characters,
    check_room,
    check_shown,
    check_solutions,
    check_vocabulary,
)
from passk.errors import UserError
from passk.learner.micro_batches import micro_batches
from passk.training.experience import imitate
from passk.types import Problem

DEFAULT_SYSTEM = "{%- set default_system = true -%}" + CHATML
GEMMA = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}
{%- for message in messages -%}
<|start|>{{ 'model' if message.role == 'assistant' else message.role }}
{{ message.content | trim }}<|eot|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|start|>model
{% endif -%}"""
MISTRAL = """{{- bos_token }}
{%- for message in messages -%}
{%- if message.role == 'user' %}[INST] {{ message.content }} [/INST]
{%- else %} {{ message.content }}{{ eos_token }}{% endif -%}
{%- endfor -%}"""
# A thinking model: an empty block goes before the last answer, and a switch that may be undefined.
THINKING = """{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and loop.last %}<think>

</think>

{% endif %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{%- endif -%}"""
NO_END = """{%- for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor -%}
{%- if add_generation_prompt %}assistant: {% endif -%}"""
# Its generation prompt opens a block that an answer does not have.
REASONER = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
SHOUTING = CHATML.replace("{{ message.content }}", "{{ message.content | upper }}")
# As of models that also see images: content is a list of parts.
IN_PARTS = CHATML.replace(
    "{{ message.content }}", "{% for part in message.content %}{{ part['text'] }}{% endfor %}"
)
LLAVA = CHATML.replace(
    "{{ message.content }}",
    "{% for p in message.content if p.type == 'text' %}{{ p.text }}{% endfor %}",
)
FIRST_PART = CHATML.replace("message.content }}", "message['content'][0]['text'] }}")
CONCATENATED = CHATML.replace("message.content }}", "message.content[0].text + ' ' | trim }}")
DATED = "{%- set today = strftime_now('%d %b %Y') -%}" + CHATML

ASK = Problem("p", r"Find $x_{1}$ if \frac{1}{2}x={x}.", "2", solution="It is 2.\n#### 2 ")
SHOTS = (
    Problem("a", "1+1?", "2", solution="1+1 is {2}."),
    Problem("b", "2+2?", "4", solution="4"),
)


def encode(encoder, problem=ASK):
    """Prompt and completion of a problem, decoded."""
    (prompt,), (completion,) = encoder.prompts([problem]), encoder.completions([problem])
    assert encoder.prompts([problem, SHOTS[0]])[0] == prompt
    return encoder.tokenizer.decode(prompt), encoder.tokenizer.decode(completion)


PLAIN = PromptConfig(
    template="Q: {problem}\nA:", completion_template=" {solution}", separator="\n--\n"
)


def test_plain_prompts_keep_the_braces_of_the_problem():
    prompt, completion = encode(PromptEncoder(tokenizer(), PLAIN))
    assert prompt == "Q: Find $x_{1}$ if \\frac{1}{2}x={x}.\nA:"
    assert completion == " It is 2.\n#### 2 <eos>"


def test_plain_prompts_have_the_tokens_that_go_before_a_text():
    encoder = PromptEncoder(tokenizer(adds_bos=True), PLAIN, SHOTS)
    prompt, completion = encode(encoder, Problem("p", "3?", "3", solution="3"))
    assert prompt == "<bos>Q: 1+1?\nA: 1+1 is {2}.\n--\nQ: 2+2?\nA: 4\n--\nQ: 3?\nA:"
    assert completion == " 3<eos>"


def test_bytes_are_all_known_whatever_a_tokenizer_calls_unknown():
    """A byte-level tokenizer may name a token for unknown text, which can stand in a template."""
    named = tokenizer()
    named.unk_token = "<|eot|>"
    encoder = PromptEncoder(named, replace(PLAIN, template="<|eot|>{problem}"))
    check_characters(encoder, [ASK, replace(ASK, prompt="\u2603 \u6f22")], "m")


def test_the_first_prompt_with_unknown_characters_is_named(tiny_encoder):
    known, unknown = Problem("known", "T3+4=", "7"), Problem("unknown", "3 plus 4?", "7")
    check_characters(tiny_encoder, [known], "tiny")
    with pytest.raises(UserError, match=r"model\.path=tiny does not know .* of unknown, so"):
        check_characters(tiny_encoder, [known, unknown], "tiny")


def test_instruction_and_system_belong_to_chats():
    cfg = replace(PLAIN, instruction="Think.", system="Be brief.", style="plain")
    assert encode(PromptEncoder(tokenizer(CHATML), cfg)) == encode(
        PromptEncoder(tokenizer(), PLAIN)
    )


def test_the_chat_template_is_told_what_the_config_says():
    """As Qwen3's, which thinks unless it is told not to."""
    thinks = "{% if not enable_thinking is defined or enable_thinking %}<think>{% endif %}"
    template = "{% for m in messages %}{{ m.content }}{% endfor %}" + thinks
    for told, shown in (({}, True), ({"enable_thinking": False}, False)):
        cfg = PromptConfig(style="chat", chat_template_kwargs=told)
        (prompt,) = PromptEncoder(tokenizer(template), cfg).prompts([ASK])
        assert ("<think>" in tokenizer().decode(prompt)) is shown


def test_auto_takes_the_chat_template_if_there_is_one():
    auto = replace(PLAIN, style="auto")
    assert encode(PromptEncoder(tokenizer(), auto)) == encode(PromptEncoder(tokenizer(), PLAIN))
    chat = replace(PLAIN, style="chat")
    assert encode(PromptEncoder(tokenizer(CHATML), auto)) == encode(
        PromptEncoder(tokenizer(CHATML), chat)
    )


CHAT = replace(PLAIN, style="chat", instruction=r"Put it within \boxed{}.")
QUESTION = "Find $x_{1}$ if \\frac{1}{2}x={x}.\nPut it within \\boxed{}."
ANSWER = "It is 2.\n#### 2"
CHATML_PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
LLAMA3_PROMPT = f"<bos><|start|>user<|end|>\n\n{QUESTION}<|eot|><|start|>assistant<|end|>\n\n"
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
RENDERED = {
    "chatml": (CHATML, CHATML_PROMPT, f"{ANSWER}<|im_end|>"),
    "default system": (DEFAULT_SYSTEM, HELPFUL + CHATML_PROMPT, f"{ANSWER}<|im_end|>"),
    "llama 3": (LLAMA3, LLAMA3_PROMPT, f"{ANSWER}<|eot|>"),
    "gemma": (
        GEMMA,
        f"<bos><|start|>user\n{QUESTION}<|eot|>\n<|start|>model\n",
        f"{ANSWER}<|eot|>",
    ),
    "mistral": (MISTRAL, f"<bos>[INST] {QUESTION} [/INST]", f" {ANSWER}<eos>"),
    "thinking": (THINKING, CHATML_PROMPT, f"<think>\n\n</think>\n\n{ANSWER}<|im_end|>"),
    "no end": (NO_END, f"user: {QUESTION}\nassistant: ", f"{ANSWER}<eos>"),
    "dated": (DATED, CHATML_PROMPT, f"{ANSWER}<|im_end|>"),
}


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_chats_are_what_the_template_renders(name, adds_bos):
    """Whether or not the tokenizer would add a BOS of its own: the template's is the only one."""
    template, prompt, completion = RENDERED[name]
    encoder = PromptEncoder(
        tokenizer(template, adds_bos=adds_bos), CHAT, end_ids=(EOS, IM_END, EOT)
    )
    assert encode(encoder) == (prompt, completion)
    whole = encoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}],
        tokenize=False,
    )
    assert whole.startswith(prompt + completion.removesuffix("<eos>"))


@pytest.mark.parametrize("name", RENDERED)
def test_shots_are_turns_before_the_problem(name):
    template = RENDERED[name][0]
    encoder = PromptEncoder(tokenizer(template), CHAT, SHOTS, end_ids=(EOS, IM_END, EOT))
    prompt, completion = encode(encoder)
    alone, alone_completion = encode(replace(encoder, shots=()))
    assert completion == alone_completion
    assert prompt.endswith(alone.removeprefix("<bos>").removeprefix(HELPFUL))
    places = [
        prompt.index(text)
        for text in ("1+1?\nPut it", "1+1 is {2}.", "2+2?\nPut it", "4", "Find $x_{1}$")
    ]
    assert places == sorted(places)
    assert prompt.count("<bos>") <= 1


def test_a_system_turn():
    cfg = replace(CHAT, system="Be brief.")
    encoder = PromptEncoder(tokenizer(DEFAULT_SYSTEM), cfg, end_ids=(IM_END,))
    assert encode(encoder)[0] == "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML_PROMPT
    with pytest.raises(UserError, match=r"System role not supported.*data\.prompt\.system"):
        PromptEncoder(tokenizer(GEMMA), cfg).prompts([ASK])


def test_a_completion_ends_as_it_would_when_sampled():
    """With the first of the model's end tokens; the tokenizer's where the text has none of them."""
    ends = {(): "\n\n<eos>", (EOS,): "\n\n<eos>", (EOT,): "\n\n<|eot|>", (EOT, EOS): "\n\n<eos>"}
    for end_ids, end in ends.items():
        encoder = PromptEncoder(tokenizer(), PromptConfig(), end_ids=end_ids)
        assert encode(encoder, replace(ASK, solution="2\n\n"))[1] == f"2{end}"
    two = replace(ASK, solution="1<|eot|>2<eos>")
    encoder = PromptEncoder(tokenizer(), PromptConfig(), end_ids=(EOS, EOT))
    assert encode(encoder, two)[1] == "1<|eot|>"
    # A base model that was given a template it does not know the end of: both ends.
    encoder = PromptEncoder(tokenizer(CHATML), CHAT, end_ids=(EOS,))
    assert encode(encoder)[1] == f"{ANSWER}<|im_end|><eos>"


@pytest.mark.parametrize("template", [REASONER, SHOUTING])
def test_a_template_that_cannot_be_learned_from_is_refused(template):
    encoder = PromptEncoder(tokenizer(template), CHAT, end_ids=(IM_END,))
    assert encoder.prompts([ASK])
    for use in (encoder.completions, lambda problems: check_solutions(encoder, problems, None)):
        with pytest.raises(UserError, match=r"chat template .* use data\.prompt\.style=plain"):
            use([ASK])


@pytest.mark.parametrize("template", [IN_PARTS, LLAVA, FIRST_PART, CONCATENATED])
def test_content_is_a_list_of_parts_where_a_template_shows_it_so_only(template):
    cfg = replace(CHAT, system="Be brief.")
    encoder = PromptEncoder(tokenizer(template), cfg, SHOTS, end_ids=(IM_END,))
    prompt, completion = encode(encoder)
    expected = encode(PromptEncoder(tokenizer(CHATML), cfg, SHOTS, end_ids=(IM_END,)))
    assert (prompt, completion) == expected
    assert encoder.facts([ASK])["prompt_content"] == "parts"
    assert "list of parts" in encoder.notes[0]


CHANGES = (
    "trim",
    "upper",
    "e",
    "tojson",
    "string",
    "wordwrap(20)",
    "replace('\\n', '  ')",
    "title",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_template_may_write_the_problem_in_its_own_way(change):
    template = CHATML.replace("message.content", f"message.content | {change}")
    hard = replace(ASK, prompt='If "a<b" & it\'s $\\frac{1}{2}$,\n\twhat is \u00df\u00e9\u6f22?  ')
    encoder = PromptEncoder(tokenizer(template), CHAT, SHOTS)
    check_shown(encoder, [ASK, hard, replace(ASK, prompt="+")])
    assert "prompt_content" not in encoder.facts([hard])


LEFT_OUT = {
    "nothing": (" ", "a turn of the system"),
    "roles": ("{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}", "a turn of"),
    "another key": (CHATML.replace("message.content", "message.text"), "a turn of the system"),
    "what is long": (
        CHATML.replace("message.content", "message.content[:9]"),
        "a turn of the user",
    ),
    "system": ("{% set messages = messages[1:] %}" + CHATML, "a turn of the system"),
    "shots": ("{% set messages = [messages[0], messages[-1]] %}" + CHATML, "a turn of the user"),
    "the last": ("{% set messages = messages[:-1] %}" + CHATML, "the problem"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_template_that_leaves_out_a_turn_is_refused(name):
    template, what = LEFT_OUT[name]
    with pytest.raises(UserError, match=rf"chat template of .* leaves out .*{what}.*style=plain$"):
        PromptEncoder(tokenizer(template), replace(CHAT, system="Be brief."), SHOTS)


def test_a_problem_that_a_template_cuts_is_named():
    template = CHATML.replace("message.content", "message.content.split('<image>')[-1]")
    encoder = PromptEncoder(tokenizer(template), CHAT)
    check_shown(encoder, [ASK])
    check_shown(PromptEncoder(tokenizer(), PromptConfig()), [ASK])
    with pytest.raises(UserError, match=r"leaves out the problem q or a part of it"):
        check_shown(encoder, [ASK, Problem("q", "What <image> shows", "2")])


def test_a_template_that_draws_by_chance_is_refused():
    encoder = PromptEncoder(tokenizer(CHATML + "{{ ['a', 'b'] | random }}"), CHAT)
    with pytest.raises(UserError, match=r"differently each time"):  # missed once in 2^40 times
        check_shown(encoder, [replace(ASK, id=f"p{i}") for i in range(40)])


FAILING = (
    "{{ 'a' + 1 }}",
    "{{ nothing.at.all }}",
    "{% if %}",
    "{{ 1 // 0 }}",
    "{{ raise_exception('no\n\nproblems') }}",
    "{{ messages[0]['content']['text'] + '' }}",
    "{{ range(10 ** 9) | list }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ messages[5].content.strip() }}",
    "{{ strftime_now(3) }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% include 'other' %}",
)


@pytest.mark.parametrize("template", FAILING)
def test_whatever_a_template_raises_is_one_sentence(template):
    with pytest.raises(UserError) as refused:
        PromptEncoder(tokenizer(CHATML + template), CHAT)
    sentence = str(refused.value)
    assert sentence.startswith("the chat template of the model fails on data.prompt (")
    assert sentence.endswith("or use data.prompt.style=plain") and "\n" not in sentence
    assert len(sentence) < 400


def test_templates_without_a_default_need_the_name_of_one():
    """As of Command R: the model brings several, and none is for plain conversation."""
    named = tokenizer({"rag": CHATML, "tool_use": LLAMA3})
    with pytest.raises(UserError, match=r"ValueError: This model has multiple chat templates"):
        PromptEncoder(named, CHAT)
    cfg = replace(CHAT, chat_template_kwargs={"chat_template": "rag"})
    assert encode(PromptEncoder(named, cfg, end_ids=(IM_END,)))[0] == CHATML_PROMPT


CLOCK = "{{ strftime_now('%d %b %Y, %H:%M') }}|" + CHATML
LLAMA31 = "{{ date_string if date_string is defined else '26 Jul 2024' }}|" + CHATML


def test_templates_write_the_day_that_they_are_told():
    day = date(2025, 3, 1)
    encoder = PromptEncoder(tokenizer(CLOCK), CHAT, day=day)
    assert encoder.prompt_text(ASK).startswith("01 Mar 2025, 00:00|")
    assert encoder.facts([ASK])["prompt_date"] == "2025-03-01"
    assert "2025-03-01 as today's date (data.prompt.date)" in encoder.notes[0]
    named = replace(encoder, cfg=replace(CHAT, date="2026-11-29"))
    assert named.prompt_text(ASK).startswith("29 Nov 2026, 00:00|")
    assert named.facts([ASK])["prompt_date"] == "2026-11-29"
    assert named.facts([ASK])["prompts_sha256"] != encoder.facts([ASK])["prompts_sha256"]
    # One that has a date of its own keeps it, unless it is told.
    own = PromptEncoder(tokenizer(LLAMA31), CHAT, day=day)
    assert own.prompt_text(ASK).startswith("26 Jul 2024|") and not own.notes
    own = replace(own, cfg=replace(CHAT, date="2026-11-29"))
    assert own.prompt_text(ASK).startswith("29 Nov 2026|")
    told = replace(CHAT, date="2026-11-29", chat_template_kwargs={"date_string": "today"})
    assert replace(own, cfg=told).prompt_text(ASK).startswith("today|")
    assert "prompt_date" not in PromptEncoder(tokenizer(CHATML), CHAT).facts([ASK])


AROUND = {
    "<bos> $A": "<bos>",
    "<bos> $A <eos>": "<bos>",
    "$A <eos>": "",
    "$A <|eot|> <eos>": "",
    "<bos> <|start|> $A <eos>": "<bos><|start|>",
    "$A": "",
}


@pytest.mark.parametrize("around", AROUND)
def test_plain_prompts_end_without_the_tokens_that_go_behind_a_text(around):
    special = [("<bos>", BOS), ("<eos>", EOS), ("<|start|>", 4), ("<|eot|>", EOT)]
    ending, first = tokenizer(), AROUND[around]
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=special
    )
    encoder = PromptEncoder(ending, PLAIN, end_ids=(EOS, EOT))
    problem = Problem("p", "3?", "3", solution="3")
    assert encode(encoder, problem) == (f"{first}Q: 3?\nA:", " 3<eos>")
    (row,) = imitate(encoder, [problem]).rows
    assert ending.decode([*row.prompt_ids, *row.completion_ids]) == f"{first}Q: 3?\nA: 3<eos>"
    # Tokens that the text has itself: those before it are there once, an end stays.
    typed = replace(PLAIN, template=first + "Q: {problem}<eos>", completion_template="{solution}")
    assert encode(PromptEncoder(ending, typed, end_ids=(EOS,)), problem)[0] == f"{first}Q: 3?<eos>"
    chat = PromptEncoder(replace_template(ending, LLAMA3), CHAT, end_ids=(EOT,))
    assert encode(chat, problem)[0].startswith("<bos><|start|>user<|end|>")


def replace_template(known, template):
    known.chat_template = template
    return known


def test_chat_without_a_template_is_refused():
    with pytest.raises(UserError, match=r"data\.prompt\.style=chat, .*style=plain, or auto"):
        PromptEncoder(tokenizer(), CHAT)


def test_a_completion_that_joins_the_last_token_of_its_prompt_is_encoded_by_itself():
    backend = Tokenizer(
        models.BPE(vocab={"<eos>": 0, "a": 1, "b": 2, "ab": 3}, merges=[("a", "b")])
    )
    joining = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    encoder = PromptEncoder(joining, PromptConfig())
    problem = Problem("p", "ba", "b", solution="bab")
    assert encoder.prompts([problem]) == [[2, 1]]
    assert encoder.completions([problem]) == [[2, 3, 0]]


@pytest.mark.parametrize("template", [None, LLAMA3])
def test_the_loss_is_on_the_completion_alone(template):
    encoder = PromptEncoder(
        tokenizer(template), replace(CHAT, style="auto"), SHOTS, end_ids=(EOS, EOT)
    )
    problems = [ASK, Problem("q", "Now?", "1", solution="Yes: 1.")]
    experience = imitate(encoder, problems)
    batches = list(micro_batches(experience.rows, 10_000, "cpu"))
    assert sum(len(batch.rows) for batch in batches) == 2
    for batch in batches:
        for ids_T, mask_T, index in zip(batch.input_ids_BT, batch.mask_BT, batch.rows, strict=True):
            learned = ids_T[mask_T].tolist()
            assert learned == encoder.completions(problems)[index]
            before = ids_T[: int(mask_T.int().argmax())].tolist()
            assert before == encoder.prompts(problems)[index]
    total = sum(len(ids) for ids in encoder.completions(problems))
    assert experience.num_processed == sum(map(len, experience.rows)) > total
    assert [row.weights for row in experience.rows] == [(1 / total,)] * 2


def test_a_prompt_without_tokens_is_refused():
    """A tokenizer without a token for unknown text drops what it does not know."""
    backend = Tokenizer(models.BPE(vocab={"<eos>": 0, "a": 1}, merges=[]))
    encoder = PromptEncoder(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>"), PromptConfig()
    )
    with pytest.raises(UserError, match=r"^the prompt of q has no tokens"):
        check_room(encoder, [Problem("p", "a", "a"), Problem("q", "\u6f22", "a")], 9, None, None)


PROBLEMS = [Problem(f"p{i}", "x" * i, "1", solution="y" * 5) for i in (3, 9, 6)]


def test_room_for_the_answer():
    encoder = PromptEncoder(tokenizer(adds_bos=True), PromptConfig())
    room = (encoder, PROBLEMS, 20)  # the longest prompt has 10 tokens
    assert check_room(*room, None, None) == 30
    assert check_room(*room, 30, None) == check_room(*room, 99, 30) == 30
    assert check_room(encoder, [], 20, 30, None) == 20
    with pytest.raises(UserError) as refused:
        check_room(*room, 99, 29)
    assert str(refused.value) == (
        "the prompt of p9 has 10 tokens, which leaves no room for rollout.max_new_tokens=20 within "
        "rollout.max_model_len of 29 tokens (1 of 3 prompts are too long); lower "
        "rollout.max_new_tokens or raise rollout.max_model_len"
    )
    with pytest.raises(
        UserError, match=r"p9 .* eval\.max_new_tokens=20 .* context of 25 tokens .2 of"
    ):
        check_room(*room, 25, None, "eval.max_new_tokens")
    with pytest.raises(UserError, match=r"rollout\.max_model_len=31 .* context of 30 tokens"):
        check_room(*room, 30, 31)


def test_worked_solutions_fit_the_context():
    encoder = PromptEncoder(tokenizer(adds_bos=True), PromptConfig())
    check_solutions(encoder, PROBLEMS, 16)  # BOS, 9, 5, end
    with pytest.raises(UserError, match=r"^p9 with .* has 16 tokens, .* of 15 \(1 of 3 are too"):
        check_solutions(encoder, PROBLEMS, 15)


def test_a_token_that_the_model_does_not_have_is_named():
    known = tokenizer("{{ messages[0].content }}{% if add_generation_prompt %}A:{% endif %}")
    size = len(known)
    known.add_tokens(["<new>", "<other>"])
    encoder = PromptEncoder(
        known, PromptConfig(template="{problem}", completion_template="{solution}")
    )
    plain = [replace(ASK, id=str(i)) for i in range(3)]
    in_prompt, in_solution = replace(ASK, prompt="a <new> b"), replace(ASK, solution="<other>")
    check_vocabulary(encoder, [*plain, in_solution], size)
    with pytest.raises(
        UserError, match=rf"of p holds the token <new> \({size}\), but the model has"
    ):
        check_vocabulary(encoder, [*plain, in_prompt], size)
    check_vocabulary(encoder, [*plain, in_prompt], size + 2)
    with pytest.raises(UserError, match=rf"<other> \({size + 1}\).* from 0 to {size} only"):
        check_vocabulary(encoder, [in_prompt, in_solution], size + 1, with_solutions=True)
