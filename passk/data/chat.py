"""Render the turns of a conversation as the text of a prompt, by chat templates."""

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
    """Return one turn of a conversation."""
    return {"role": role, "content": content}


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat template of a tokenizer, and its arguments besides the turns.

    With `in_parts` the content of a turn is passed as a list of parts, as templates of models that
    also see images require. `day` is the date that the template may write; with `names_day` it is
    also passed as `date_string`, which templates without a clock of their own read.
    """

    tokenizer: PreTrainedTokenizerBase
    options: Mapping[str, Any]
    day: date
    names_day: bool = False
    in_parts: bool = False

    @property
    def name(self) -> str:
        """Name of the template in messages."""
        return f"the chat template of {self.tokenizer.name_or_path or 'the model'}"

    @property
    def writes_date(self) -> bool:
        """True if the rendered text may depend on the day."""
        return "strftime_now" in str(self.tokenizer.chat_template)

    def render(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        """Render `turns` as text. Raises UserError for any exception of the template."""
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
        except Exception as error:  # a template is a program of the model: it may raise anything
            reason = " ".join(str(error).split())[:_MOST_SAID]
            raise UserError(
                f"{self.name} fails on data.prompt ({type(error).__name__}: {reason}); change "
                "data.prompt.system or data.prompt.chat_template_kwargs, or use "
                "data.prompt.style=plain"
            ) from error
        assert isinstance(text, str)
        return text

    def left_out(self, turns: Sequence[Turn]) -> Turn | None:
        """Return the first system or user turn whose text the template leaves out, else None."""
        text = self.render(turns, add_generation_prompt=True)
        for turn in turns:
            # A list of parts that is printed as it is, brackets included, counts as left out.
            is_printed = self.in_parts and any(f(_part(turn)) in text for f in (repr, json.dumps))
            if turn["role"] != "assistant" and (is_printed or not shows(text, turn["content"])):
                return turn
        return None


def _part(turn: Turn) -> dict[str, str]:
    return {"type": "text", "text": turn["content"]}


def shows(prompt: str, text: str) -> bool:
    """Return True if a template has put `text` into `prompt`.

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
