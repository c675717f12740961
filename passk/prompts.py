"""Problems as token ids: the prompt a model sees, and the completion a worked solution makes."""

from collections.abc import Sequence
from dataclasses import dataclass

from passk.config import PromptConfig
from passk.policy import Tokenizer
from passk.types import Problem


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """Turns problems into token ids; `shots` are worked problems shown before each of them."""

    tokenizer: Tokenizer
    cfg: PromptConfig
    shots: tuple[Problem, ...] = ()

    def prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of each prompt, with the special tokens the tokenizer puts before a text."""
        texts = [self.cfg.template.format(problem=problem.prompt) for problem in problems]
        encoded: list[list[int]] = self.tokenizer(texts)["input_ids"]
        return encoded

    def completions(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of each worked solution, ended by the end token."""
        texts = [self.cfg.completion_template.format(solution=p.solution) for p in problems]
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [[*ids, self.tokenizer.eos_token_id] for ids in encoded]
