"""Chat templates: the turns of a conversation in, the text of a prompt out."""

import html
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from passk.errors import UserError

Turn = dict[str, Any]  # a role and its content
_MOST_SAID = 200  # characters of a template's own error


def turn(role: str, content: str) -> Turn:
    """One turn of a conversation."""
    return {"role": role, "content": content}


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat template of a tokenizer, and what it is given besides the turns.

    `in_parts` gives it the content of a turn as a list of parts, as templates of models that also
    see images ask for. `day` is the date that it may write; with `names_day` it is also given as
    `date_string`, which templates without a clock of their own read.
    """

    tokenizer: PreTrainedTokenizerBase
    options: Mapping[str, Any]
    day: date
    names_day: bool = False
    in_parts: bool = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the chat template of {self.tokenizer.name_or_path or 'the model'}"

    @property
    def writes_date(self) -> bool:
        """Whether its text may depend on the day."""
        return "strftime_now" in str(self.tokenizer.chat_template)

    def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        """The text of `turns`. Raises UserError for whatever the template raises."""
        if self.in_parts:
            turns = [{**turn, "content": [_part(turn)]} for turn in turns]
        date_string = {"date_string": self.day.strftime("%d %b %Y")} if self.names_day else {}
        try:
            text = self.tokenizer.apply_chat_template(
                list(turns),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{"strftime_now": self.day.strftime, **date_string, **self.options},
            )
        except Exception as error:  # a template is a program of the model's: it may raise anything
            reason = " ".join(str(error).split())[:_MOST_SAID]
            raise UserError(
                f"{self.name} fails on data.prompt ({type(error).__name__}: {reason}); change "
                "data.prompt.system or data.prompt.chat_template_kwargs, or use "
                "data.prompt.style=plain"
            ) from error
        assert isinstance(text, str)
        return text

    def left_out(self, turns: Sequence[Turn]) -> Turn | None:
        """The first turn of the system or the user whose text is not in what is rendered."""
        text = self.render(turns, add_generation_prompt=True)
        for turn in turns:
            # A list that is printed as it is, with its brackets, is not what a template is for.
            is_printed = self.in_parts and any(f(_part(turn)) in text for f in (repr, json.dumps))
            if turn["role"] != "assistant" and (is_printed or not shows(text, turn["content"])):
                return turn
        return None


def _part(turn: Turn) -> dict[str, str]:
    return {"type": "text", "text": turn["content"]}


def shows(prompt: str, text: str) -> bool:
    """Whether a template has put `text` into `prompt`.

    It may have changed white space and case, and escaped the text for HTML, JSON or Python.
    """
    if text in prompt:
        return True
    written = (
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        html.escape(text),
        html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),  # as jinja does
    )
    plain = _plain(prompt)
    return any(_plain(form) in plain for form in written)


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
