"""Completions as text: what follows a prompt, in tokenizers of every family."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from passk.data.codec import CompletionCodec, stops
from passk.errors import UserError

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ASCII = [chr(code) for code in range(33, 127)]
BLANK = "\u2581"


def fast(backend, **options):
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **options)


def byte_pairs(tokens, merges=(), **options):
    vocab = {token: i for i, token in enumerate([*SPECIAL, *tokens])}
    for first, second in merges:
        vocab.setdefault(first + second, len(vocab))
    return models.BPE(vocab=vocab, merges=list(merges), **options)


def byte_level(**options):
    backend = Tokenizer(
        byte_pairs(sorted(pre_tokenizers.ByteLevel.alphabet()), [("\u0120", "\u0120")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return fast(backend, **options)


def llama2():
    """A blank goes before a text, and is taken away when one is decoded."""
    merges = [(BLANK, BLANK), (BLANK * 2, BLANK * 2)]
    model = byte_pairs(
        [*BYTES, BLANK, *ASCII], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast(backend)


def metaspace(scheme):
    model = byte_pairs([*BYTES, BLANK, *ASCII], unk_token="<unk>", byte_fallback=True)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=False)]
    )
    return fast(backend)


def unigram():
    pieces = [*SPECIAL, *BYTES, BLANK, *ASCII, f"{BLANK}a", f"{BLANK}re", "turn"]
    model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always", split=False)]
    )
    # Of these transformers would take the blanks before punctuation away.
    return fast(backend, clean_up_tokenization_spaces=True)


WHOLE = {
    "byte_level": byte_level(),
    "byte_level_tidied": byte_level(clean_up_tokenization_spaces=True),
    "llama2": llama2(),
    "metaspace_first": metaspace("first"),
    "metaspace_always": metaspace("always"),
    "unigram": unigram(),
}
TEXTS = (
    "    return 2 * x\n",
    " 5",
    "5",
    "\n\n  two",
    "\tif a :\n\t\tb , c . d ' s n't",
    "\u00e9 \u00dcn\u00ef \u6f22\u5b57 \U0001f600",
    " ",
    "",
)


@pytest.mark.parametrize(
    "prompt", ["What is 1 + 1?", 'def f(x):\n    """Double."""\n', "caf\u00e9"]
)
@pytest.mark.parametrize("name", WHOLE)
def test_a_completion_is_the_text_behind_its_prompt(name, prompt):
    tokenizer = WHOLE[name]
    codec = CompletionCodec(tokenizer)
    for text in TEXTS:
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] == before:
            assert codec.decode([whole[len(before) :]]) == [text]
        assert codec.decode([codec.encode(text)]) == [text]
    # Some together, with an end token, and with half of a character.
    ids = [codec.encode(text) for text in TEXTS]
    assert codec.decode([[*row, 2] for row in ids]) == list(TEXTS)
    half = codec.encode("\u6f22")[:-1]
    assert set(codec.decode([half])[0]) == {"\ufffd"}


def test_words_that_decoding_joins_with_blanks_keep_that_before_the_first():
    backend = Tokenizer(
        models.WordPiece(
            {t: i for i, t in enumerate([*SPECIAL, *ASCII, "one", "two", "##s"])}, unk_token="<unk>"
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    codec = CompletionCodec(fast(backend))
    ends = Tokenizer(byte_pairs([f"{c}</w>" for c in ASCII], end_of_word_suffix="</w>"))
    ends.pre_tokenizer = pre_tokenizers.Whitespace()
    ends.decoder = decoders.BPEDecoder(suffix="</w>")
    assert codec.decode([codec.encode("twos one")]) == [" twos one"]
    assert codec.decode([[len(SPECIAL) + len(ASCII) + 2]]) == ["s"]  # goes on with a word
    codec = CompletionCodec(fast(ends))
    assert codec.decode([codec.encode("1 2")]) == [" 1 2"]


def test_a_tokenizer_without_any_short_text_decodes_completions_alone():
    backend = Tokenizer(byte_pairs(["\u6f22", "\u5b57"]))
    codec = CompletionCodec(fast(backend))
    assert codec.decode([[4, 5], []]) == ["\u6f22 \u5b57", ""]
    assert codec.encode("\u5b57") == [5]


def test_stop_texts_that_are_special_tokens_are_found_by_their_ids():
    tokenizer = byte_level()
    assert stops(tokenizer, ["\n\n", "<|im_end|>", " "]).token_ids == (3,)
    assert stops(tokenizer, ["\n\n", "<|im_end|>", " "]).texts == ("\n\n", " ")
    assert stops(tokenizer, ["</s>", "<unk>"]).token_ids == (2, 0)
    tokenizer.add_tokens(["<answer>"])
    assert stops(tokenizer, ["<answer>"]).texts == ("<answer>",)  # is not left out of texts
    for text in ("<|im_end|>\n", " </s>", "</s></s>"):
        with pytest.raises(UserError, match=r"^data\.prompt\.stop='.* special token '<.*>' alone$"):
            stops(tokenizer, ["a", text])
