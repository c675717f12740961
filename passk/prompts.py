"""Problems as token ids: the prompt a model sees, and the completion a worked solution makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

from jinja2 import TemplateError

from passk.config import PromptConfig
from passk.errors import UserError
from passk.policy import Tokenizer
from passk.types import Problem

Turn = dict[str, str]  # a role and its content
_NUM_CHECKED = 50  # prompts of a side that are looked through: an alphabet soon shows


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """Turns problems into token ids; `shots` are worked problems shown before each of them.

    A plain prompt is text with the special tokens that the tokenizer puts before a text. A chat
    prompt is what the tokenizer's chat template renders, which brings its own. `end_ids` are the
    tokens that end a completion when it is sampled; without them it is the tokenizer's end token.
    Raises UserError where `data.prompt` asks for what the tokenizer does not have.
    """

    tokenizer: Tokenizer
    cfg: PromptConfig
    shots: tuple[Problem, ...] = ()
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.cfg.style == "chat" and not self.tokenizer.chat_template:
            raise UserError(
                "data.prompt.style=chat, but the model's tokenizer has no chat template; use "
                "data.prompt.style=plain, or auto, which takes plain where there is none"
            )

    @property
    def is_chat(self) -> bool:
        """Whether prompts are turns of the chat template; `auto` takes it if there is one."""
        return self.cfg.style != "plain" and bool(self.tokenizer.chat_template)

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of each prompt."""
        return self._encode([self.prompt_text(problem) for problem in problems])

    def completions(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of each worked solution as the model would sample it, end token included.

        They are what the tokens of prompt and solution together have after those of the prompt.
        """
        texts = self.texts(problems)
        prompts = self._encode([prompt for prompt, _ in texts])
        wholes = self._encode([prompt + completion for prompt, completion in texts])
        return [
            self._ended(whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._ids(text))
            for prompt, whole, (_, text) in zip(prompts, wholes, texts, strict=True)
        ]

    def texts(self, problems: Sequence[Problem]) -> list[tuple[str, str]]:
        """Prompt and worked solution of each problem, as they are before they become tokens."""
        prompts = list(map(self.prompt_text, problems))
        return list(zip(prompts, map(self._completion_text, problems, prompts), strict=True))

    def prompt_text(self, problem: Problem) -> str:
        """The prompt as text; a plain one without the tokens that the tokenizer puts before it."""
        if self.is_chat:
            return self._render(self._turns(problem), add_generation_prompt=True)
        shown = [self._question(shot) + self._answer(shot) for shot in self.shots]
        return self.cfg.separator.join([*shown, self._question(problem)])

    def _completion_text(self, problem: Problem, prompt: str) -> str:
        """The text after `prompt`: of a chat, the template's assistant turn with its end."""
        if not self.is_chat:
            return self._answer(problem)
        answer = self._answer(problem).strip()
        turns = [*self._turns(problem), _turn("assistant", answer)]
        whole = self._render(turns, add_generation_prompt=False)
        if not whole.startswith(prompt) or answer not in whole[len(prompt) :]:
            raise UserError(
                "the chat template of the model's tokenizer does not render a worked solution as "
                "the continuation of its prompt, so it cannot be learned from; use "
                "data.prompt.style=plain"
            )
        return whole[len(prompt) :].rstrip()

    def _question(self, problem: Problem) -> str:
        return self.cfg.template.format(problem=problem.prompt)

    def _answer(self, problem: Problem) -> str:
        return self.cfg.completion_template.format(solution=problem.solution)

    def _turns(self, problem: Problem) -> list[Turn]:
        """The conversation up to the problem, whose turn ends with the instruction."""
        turns = [] if self.cfg.system is None else [_turn("system", self.cfg.system)]
        for shot in self.shots:
            turns.append(_turn("user", self._request(shot)))
            turns.append(_turn("assistant", self._answer(shot).strip()))
        return [*turns, _turn("user", self._request(problem))]

    def _request(self, problem: Problem) -> str:
        return "\n".join(filter(None, (problem.prompt, self.cfg.instruction)))

    def _render(self, turns: list[Turn], *, add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.cfg.chat_template_kwargs,
            )
        except TemplateError as error:
            raise UserError(
                f"the chat template of the model's tokenizer refuses data.prompt ({error}); change "
                "data.prompt.system or use data.prompt.style=plain"
            ) from error
        assert isinstance(text, str)
        return text

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:  # which the tokenizer does not take
            return []
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=not self.is_chat)[
            "input_ids"
        ]
        return encoded

    def _ids(self, text: str) -> list[int]:
        """A completion by itself, where its first characters would join the prompt's last token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _ended(self, ids: list[int]) -> list[int]:
        """Cut after the first token that ends a completion, or with one added."""
        ends = self.end_ids or (self.tokenizer.eos_token_id,)
        for place, token in enumerate(ids, 1):
            if token in ends:
                return ids[:place]
        eos = self.tokenizer.eos_token_id
        return [*ids, eos if eos in ends else ends[0]]


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def check_room(
    encoder: PromptEncoder,
    problems: Sequence[Problem],
    max_new_tokens: int,
    model_context: int | None,
    max_model_len: int | None,
    key: str = "rollout.max_new_tokens",
) -> int:
    """The tokens that the longest prompt needs with `max_new_tokens` (of `key`) of an answer.

    `model_context` is the most the model takes (None: no limit is known), `max_model_len` the most
    that the user allows. Raises UserError, naming the problem with the longest prompt, where one
    does not fit.
    """
    if max_model_len and model_context and max_model_len > model_context:
        raise UserError(
            f"rollout.max_model_len={max_model_len} is more than the model's context of "
            f"{model_context} tokens; use at most that, or null"
        )
    lengths = [len(prompt) for prompt in encoder.prompts(problems)]
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


def check_characters(encoder: PromptEncoder, problems: Sequence[Problem], model: str) -> None:
    """Raise UserError where the first prompts hold what the tokenizer has no token for.

    `model` is what `model.path` says. Most tokenizers know every byte. One whose token for unknown
    text also begins or ends texts cannot be asked.
    """
    tokenizer = encoder.tokenizer
    backend = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    # What encoding gives for unknown text; a byte-level tokenizer may name one that never comes.
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
    """Raise UserError where a prompt holds a token that a model of `size` tokens does not have.

    `with_solutions`: or its worked solution. A tokenizer may know more tokens than the model, such
    as those that were added to it alone; no harm is done until one comes up.
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
    """Raise UserError where a prompt with its worked solution is longer than the model's context.

    Also where the chat template cannot be learned from; see `PromptEncoder.completions`.
    """
    texts = encoder.texts(problems)
    if model_context is None:
        return
    # A token stands for a byte at least, but for those that begin and end: most need no counting.
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
