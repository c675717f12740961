"""Encode problems as token ids: prompts for the model, and worked solutions as completions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from operator import add

from transformers import PreTrainedTokenizerBase as Tokenizer

from passk.config.schema import PromptConfig
from passk.data.chat import ChatTemplate, Turn, shows, turn
from passk.data.codec import CompletionCodec, stops
from passk.errors import UserError
from passk.types import Problem

_PROBE = Problem("", "Is 17 + 25 = 42?", "")  # a problem to try a chat template with
_NUM_CHECKED = 50  # prompts of a side that are checked: a foreign alphabet shows early


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """Encoder of problems as token ids; `shots` are worked problems shown before each of them.

    A plain prompt is text with the special tokens that the tokenizer puts before a text. A chat
    prompt is rendered by the tokenizer's chat template, which brings its own special tokens; `day`
    is the date that it may write, unless `data.prompt.date` names another. `end_ids` are the tokens
    that end a sampled completion; by default the tokenizer's end token.
    Raises UserError if `data.prompt` needs a chat template that the tokenizer lacks, if a stop text
    could never be found, and if the chat template leaves out a turn.
    """

    tokenizer: Tokenizer
    cfg: PromptConfig
    shots: tuple[Problem, ...] = ()
    end_ids: tuple[int, ...] = ()
    day: date = field(default_factory=date.today)
    chat: ChatTemplate | None = field(init=False)  # None: prompts are plain
    codec: CompletionCodec = field(init=False)

    def __post_init__(self) -> None:
        if self.cfg.style == "chat" and not self.tokenizer.chat_template:
            raise UserError(
                "data.prompt.style=chat, but the model's tokenizer has no chat template; use "
                "data.prompt.style=plain, or auto, which takes plain where there is none"
            )
        stops(self.tokenizer, self.cfg.stop)  # raises for texts that would never be found
        is_chat = self.cfg.style != "plain" and bool(self.tokenizer.chat_template)
        object.__setattr__(self, "chat", self._chat_template() if is_chat else None)
        object.__setattr__(self, "codec", CompletionCodec(self.tokenizer))

    def _chat_template(self) -> ChatTemplate:
        """Return the chat template, with content as text if it renders that, else as parts."""
        named = self.cfg.date
        template = ChatTemplate(
            self.tokenizer,
            self.cfg.chat_template_kwargs,
            date.fromisoformat(named) if named else self.day,
            names_day=named is not None,
        )
        turns, refusals = self._turns(_PROBE), []
        for form in (template, replace(template, in_parts=True)):
            try:
                missing = form.left_out(turns)
            except UserError as error:
                refusals.append(error)
                continue
            if missing is None:
                return form
            what = "the problem" if missing is turns[-1] else f"a turn of the {missing['role']}"
            refusals.append(
                UserError(
                    f"{form.name} leaves out {what}: {missing['content'][:60]!r} is not in the "
                    "prompt, given as text or as a list of parts; use data.prompt.style=plain"
                )
            )
        raise refusals[0]

    @property
    def is_chat(self) -> bool:
        """True if prompts are chat turns; style `auto` uses the chat template if there is one."""
        return self.chat is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user on arguments of the chat template that nobody asked for."""
        if self.chat is None:
            return ()
        parts = "prompts: the chat template takes content as a list of parts, so passk gives it one"
        day = f"prompts: the chat template gets {self.chat.day} as today's date (data.prompt.date)"
        said = ((parts, self.chat.in_parts), (day, self.chat.writes_date))
        return tuple(note for note, holds in said if holds)

    def facts(self, problems: Sequence[Problem]) -> dict[str, str]:
        """Return the manifest's entries on prompts: a digest of tokens, and what they depend on."""
        ids = json.dumps(self.prompts(problems))
        facts = {"prompts_sha256": hashlib.sha256(ids.encode()).hexdigest()[:16]}
        if self.chat is not None and self.chat.in_parts:
            facts["prompt_content"] = "parts"
        if self.chat is not None and self.chat.writes_date:
            facts["prompt_date"] = self.chat.day.isoformat()
        return facts

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Return the token ids of each prompt."""
        return self._encode([self.prompt_text(problem) for problem in problems])

    def completions(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Return the token ids of each worked solution as a sampled completion, with end token.

        They are the tokens of prompt and solution together, without those of the prompt. If the
        first characters of the solution would join the prompt's last token, they are the tokens of
        the solution by `CompletionCodec.encode`.
        """
        texts = self.texts(problems)
        prompts = self._encode([prompt for prompt, _ in texts])
        wholes = self._encode([prompt + completion for prompt, completion in texts])
        return [
            self._ended(
                whole[len(prompt) :]
                if whole[: len(prompt)] == prompt
                else self.codec.encode(completion)
            )
            for prompt, whole, (_, completion) in zip(prompts, wholes, texts, strict=True)
        ]

    def texts(self, problems: Sequence[Problem]) -> list[tuple[str, str]]:
        """Return prompt and worked solution of each problem as text."""
        prompts = list(map(self.prompt_text, problems))
        return list(zip(prompts, map(self._completion_text, problems, prompts), strict=True))

    def prompt_text(self, problem: Problem) -> str:
        """Return the prompt as text; a plain one without the tokenizer's own special tokens."""
        if self.chat is not None:
            return self.chat.render(self._turns(problem), add_generation_prompt=True)
        shown = [self._question(shot) + self._answer(shot) for shot in self.shots]
        return self.cfg.separator.join([*shown, self._question(problem)])

    def _completion_text(self, problem: Problem, prompt: str) -> str:
        """Return the text after `prompt`; in a chat, the template's assistant turn with its end.

        Raises UserError if the template does not render the solution as a continuation of `prompt`.
        """
        if self.chat is None:
            return self._answer(problem)
        answer = self._answer(problem).strip()
        turns = [*self._turns(problem), turn("assistant", answer)]
        whole = self.chat.render(turns, add_generation_prompt=False)
        if not whole.startswith(prompt) or answer not in whole[len(prompt) :]:
            raise UserError(
                f"{self.chat.name} does not render a worked solution as "
                "the continuation of its prompt, so it cannot be learned from; use "
                "data.prompt.style=plain"
            )
        return whole[len(prompt) :].rstrip()

    def _question(self, problem: Problem) -> str:
        return self.cfg.template.format(problem=problem.prompt)

    def _answer(self, problem: Problem) -> str:
        return self.cfg.completion_template.format(solution=problem.solution)

    def _turns(self, problem: Problem) -> list[Turn]:
        """Return the conversation up to the problem, whose turn ends with the instruction."""
        turns = [] if self.cfg.system is None else [turn("system", self.cfg.system)]
        for shot in self.shots:
            turns.append(turn("user", self._request(shot)))
            turns.append(turn("assistant", self._answer(shot).strip()))
        return [*turns, turn("user", self._request(problem))]

    def _request(self, problem: Problem) -> str:
        return "\n".join(filter(None, (problem.prompt, self.cfg.instruction)))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return token ids of texts that a model continues.

        Plain ones begin with the special tokens that the tokenizer puts before a text, only once
        if the text already has them, and omit those that it puts after a text.
        """
        if not texts:  # the tokenizer does not accept an empty list
            return []
        bare: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        if self.is_chat:
            return bare
        first = self._first_tokens(texts[0], bare[0])
        return [ids if first and ids[: len(first)] == first else first + ids for ids in bare]

    def _first_tokens(self, text: str, bare: list[int]) -> list[int]:
        """Return the special tokens before a text whose own tokens are `bare`."""
        whole: list[int] = self.tokenizer(text)["input_ids"]
        for place in range(len(whole) - len(bare) + 1):
            if whole[place : place + len(bare)] == bare:
                return whole[:place]
        return []

    def _ended(self, ids: list[int]) -> list[int]:
        """Cut `ids` after the first token that ends a completion, or append one."""
        ends = self.end_ids or (self.tokenizer.eos_token_id,)
        for place, token in enumerate(ids, 1):
            if token in ends:
                return ids[:place]
        eos = self.tokenizer.eos_token_id
        return [*ids, eos if eos in ends else ends[0]]


def check_room(
    encoder: PromptEncoder,
    problems: Sequence[Problem],
    max_new_tokens: int,
    model_context: int | None,
    max_model_len: int | None,
    key: str = "rollout.max_new_tokens",
) -> int:
    """Return the number of tokens of the longest prompt with an answer of `max_new_tokens`.

    `key` names the setting of `max_new_tokens` in messages. `model_context` is the most that the
    model takes (None: no limit is known), `max_model_len` the most that the user allows. Raises
    UserError if a prompt does not fit, naming the problem with the longest one, if a prompt has no
    tokens, and if `max_model_len` is above `model_context`.
    """
    if max_model_len and model_context and max_model_len > model_context:
        raise UserError(
            f"rollout.max_model_len={max_model_len} is more than the model's context of "
            f"{model_context} tokens; use at most that, or null"
        )
    lengths = [len(prompt) for prompt in encoder.prompts(problems)]
    if 0 in lengths:
        raise UserError(
            f"the prompt of {problems[lengths.index(0)].id} has no tokens: the model's tokenizer "
            "drops all of it"
        )
    longest = max(lengths, default=0)
    limit = max_model_len or model_context
    if limit is not None and longest + max_new_tokens > limit:
        too_long = sum(length + max_new_tokens > limit for length in lengths)
        name = "rollout.max_model_len" if max_model_len else "the model's context"
        raise UserError(
            f"the prompt of {problems[lengths.index(longest)].id} has {longest} tokens, which "
            f"leaves no room for {key}={max_new_tokens} within {name} of {limit} tokens "
            f"({too_long} of {len(lengths)} prompts are too long); lower {key}"
            f"{' or raise rollout.max_model_len' if max_model_len else ''}"
        )
    return longest + max_new_tokens


def check_shown(encoder: PromptEncoder, problems: Sequence[Problem]) -> None:
    """Raise UserError if the chat template leaves out a problem or a part of one.

    Also raise it if the template renders a problem differently each time.
    """
    if encoder.chat is None:
        return
    for place, problem in enumerate(problems):
        text = encoder.prompt_text(problem)
        if place < _NUM_CHECKED and text != encoder.prompt_text(problem):
            raise UserError(
                f"{encoder.chat.name} renders {problem.id} differently each time; use "
                "data.prompt.style=plain"
            )
        if not shows(text, problem.prompt):
            raise UserError(
                f"{encoder.chat.name} leaves out the problem {problem.id} or a part of it; leave "
                "it out of the data, or use data.prompt.style=plain"
            )


def check_characters(encoder: PromptEncoder, problems: Sequence[Problem], model: str) -> None:
    """Raise UserError if the tokenizer has no token for some text of the first prompts.

    `model` is the value of `model.path`. Most tokenizers know every byte. A tokenizer whose token
    for unknown text also begins or ends texts cannot be checked.
    """
    tokenizer = encoder.tokenizer
    backend = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    # The token that encoding gives for unknown text; a byte-level tokenizer may name an unused one.
    token = getattr(backend, "unk_token", tokenizer.unk_token)
    if token is None or token in (tokenizer.bos_token, tokenizer.eos_token):
        return
    unknown = tokenizer.convert_tokens_to_ids(token)
    first = problems[:_NUM_CHECKED]
    for problem, prompt in zip(first, encoder.prompts(first), strict=True):
        if unknown in prompt:
            raise UserError(
                f"the tokenizer of model.path={model} does not know some characters in the prompt "
                f"of {problem.id}, so the model cannot read it; use another model or other problems"
            )


def check_vocabulary(
    encoder: PromptEncoder, problems: Sequence[Problem], size: int, *, with_solutions: bool = False
) -> None:
    """Raise UserError if a prompt holds a token that a model of `size` tokens does not have.

    With `with_solutions`, check worked solutions too. A tokenizer may know more tokens than the
    model, such as those that were added to it alone; that does no harm until one occurs.
    """
    if max(encoder.tokenizer.get_vocab().values(), default=0) < size:
        return
    token_ids = encoder.prompts(problems)
    if with_solutions:
        token_ids = [*map(add, token_ids, encoder.completions(problems))]
    for problem, ids in zip(problems, token_ids, strict=True):
        beyond = next((token for token in ids if token >= size), None)
        if beyond is not None:
            shown = encoder.tokenizer.convert_ids_to_tokens(beyond)
            raise UserError(
                f"the prompt or solution of {problem.id} holds the token {shown} ({beyond}), but "
                f"the model has tokens from 0 to {size - 1} only: tokenizer and model do not "
                "belong together; change data.prompt, or take the model's own tokenizer and "
                "chat template"
            )


def check_solutions(
    encoder: PromptEncoder, problems: Sequence[Problem], model_context: int | None
) -> None:
    """Raise UserError if a prompt with its worked solution is longer than the model's context.

    Also raise it if the chat template does not render a solution as a continuation of its prompt.
    """
    texts = encoder.texts(problems)
    if model_context is None:
        return
    # A token stands for at least one byte, except those that begin and end a text, so the number of
    # bytes shows for most problems that they fit.
    doubtful = [
        problem
        for problem, (prompt, completion) in zip(problems, texts, strict=True)
        if len((prompt + completion).encode()) + 2 > model_context
    ]
    lengths = [
        len(prompt) + len(completion)
        for prompt, completion in zip(
            encoder.prompts(doubtful), encoder.completions(doubtful), strict=True
        )
    ]
    longest = max(lengths, default=0)
    if longest > model_context:
        too_long = sum(length > model_context for length in lengths)
        raise UserError(
            f"{doubtful[lengths.index(longest)].id} with its worked solution has {longest} tokens, "
            f"more than the model's context of {model_context} ({too_long} of {len(problems)} are "
            "too long); leave them out of data.path"
        )
