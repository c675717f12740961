"""Convert completions between text and token ids, as continuations of a prompt."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from passk.errors import UserError

_SHORT_TEXTS = (*string.ascii_letters, *string.digits, *string.punctuation)
_NUM_LEADS = 8


@dataclass(frozen=True, slots=True)
class _Lead:
    """Short text that stands in for a prompt, with its token ids."""

    ids: tuple[int, ...]
    text: str


class CompletionCodec:
    """Codec of completions as the continuation of a prompt.

    Tokenizers treat the beginning of a text specially: those of Llama 2 and Mistral add a blank
    before encoding and remove one when decoding, others join or split words. A completion is not
    the beginning of a text. So the codec puts a short text before it, and cuts it off again. The
    prompt itself would be longer and no better: its last bytes may change with what follows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._leads = self._find_leads()

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each completion, without special tokens.

        Turn off the clean-up of transformers: it removes blanks before punctuation, which is wrong
        for programs.
        """
        lead = self._leads[0]
        wholes = self._decode([[*lead.ids, *ids] for ids in completions])
        alone = [i for i, whole in enumerate(wholes) if not whole.startswith(lead.text)]
        texts = [whole[len(lead.text) :] for whole in wholes]
        for i in alone:
            (texts[i],) = self._decode([completions[i]])
        return texts

    def encode(self, text: str) -> list[int]:
        """Return token ids that decode to `text`; those of the text alone if none are found."""
        for lead in self._leads:
            whole = self._encode(lead.text + text)
            ids = whole[len(lead.ids) :]
            if whole[: len(lead.ids)] == list(lead.ids) and self.decode([ids]) == [text]:
                return ids
        return self._encode(text)

    def _find_leads(self) -> tuple[_Lead, ...]:
        """Return short texts that the tokenizer knows; the empty one if it knows none."""
        unknown = self._tokenizer.unk_token_id
        leads = []
        for text in _SHORT_TEXTS:
            ids = self._encode(text)
            if ids and unknown not in ids and self._decode([ids]) == [text]:
                leads.append(_Lead(tuple(ids), text))
            if len(leads) == _NUM_LEADS:
                break
        return tuple(leads) or (_Lead((), ""),)

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return self._tokenizer.batch_decode(
            [list(ids) for ids in rows],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@dataclass(frozen=True, slots=True)
class Stops:
    """Texts and special tokens that end a completion, besides the model's end tokens."""

    texts: tuple[str, ...]
    token_ids: tuple[int, ...]


def stops(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> Stops:
    """Split `data.prompt.stop` into texts and special tokens, which decoded samples leave out.

    Raises UserError for a text that holds a special token and more: it would never be found.
    """
    special = _special_tokens(tokenizer)
    for text in stop:
        found = [token for token in special if token in text]
        if text not in special and found:
            raise UserError(
                f"data.prompt.stop={text!r} holds more than the special token {found[0]!r}, "
                f"which the text of a sample leaves out; give {found[0]!r} alone"
            )
    return Stops(
        tuple(text for text in stop if text not in special),
        tuple(special[text] for text in stop if text in special),
    )


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return every token that decoding leaves out, with its id."""
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return named | added
