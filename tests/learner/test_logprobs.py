"""Log-probabilities in chunks: the plain formulation's values and gradients, in less memory."""

import pytest
import torch
from peak_memory import PeakMemory
from random_models import ARCHITECTURES, random_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from passk.errors import UserError
from passk.learner import logprobs
from passk.learner.logprobs import LogitMap, check_head, selected_logprobs, token_logprobs

MAPS = {
    "plain": LogitMap(),
    "temperature": LogitMap(temperature=0.7),
    "scaled": LogitMap(scale=0.3, temperature=1.3),
    "capped": LogitMap(cap=2.0),
    "all of it": LogitMap(scale=1.7, cap=3.0, temperature=0.6),
}
NUM_TOKENS, WIDTH, VOCABULARY = 7, 5, 11


@pytest.fixture(autouse=True)
def two_tokens_a_chunk(monkeypatch):
    """7 tokens are then four chunks, the last of them not full."""
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 2 * VOCABULARY + 3)


def inputs(dtype=torch.float64, *, bias: bool = True):
    torch.manual_seed(0)
    hidden = torch.randn(NUM_TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    bias_V = torch.randn(VOCABULARY, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, bias_V, torch.randint(VOCABULARY, (NUM_TOKENS,))


def plain_logprobs(hidden, weight, bias, targets, logit_map: LogitMap):
    """The same as one line of algebra a step, with all logits at once."""
    logits = hidden @ weight.T
    logits = logit_map.scale * (logits if bias is None else logits + bias)
    if logit_map.cap is not None:
        logits = logit_map.cap * torch.tanh(logits / logit_map.cap)
    logp = torch.log_softmax(logits / logit_map.temperature, dim=-1)
    return logp[torch.arange(len(targets)), targets]


def gradients(function, tensors, weights_N):
    wanted = [tensor for tensor in tensors[:3] if tensor is not None and tensor.requires_grad]
    return torch.autograd.grad(function(*tensors) @ weights_N, wanted)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_the_plain_formulation(name, bias):
    tensors, logit_map = inputs(bias=bias), MAPS[name]
    ours = selected_logprobs(*tensors, logit_map)
    torch.testing.assert_close(ours, plain_logprobs(*tensors, logit_map), rtol=0, atol=1e-13)
    weights_N = torch.randn(NUM_TOKENS, dtype=torch.float64)
    for one, other in zip(
        gradients(lambda *t: selected_logprobs(*t, logit_map), tensors, weights_N),
        gradients(lambda *t: plain_logprobs(*t, logit_map), tensors, weights_N),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", MAPS)
def test_gradients_agree_with_finite_differences(name):
    hidden, weight, bias, targets = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w, b: selected_logprobs(h, w, b, targets, MAPS[name]), (hidden, weight, bias)
    )


def test_chunks_change_nothing(monkeypatch):
    tensors, weights_N = inputs(), torch.randn(NUM_TOKENS, dtype=torch.float64)
    found = []
    for logits_per_chunk in (1, 3 * VOCABULARY, 10**6):  # one token at a time, three, all
        monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", logits_per_chunk)
        found.append(gradients(lambda *t: selected_logprobs(*t, LogitMap()), tensors, weights_N))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-13)


def test_huge_logits_do_not_overflow():
    hidden, weight, _, targets = inputs(torch.float32)
    tensors = (hidden.detach() * 1e4, weight, None, targets)
    ours = selected_logprobs(*tensors, LogitMap())
    torch.testing.assert_close(ours, plain_logprobs(*tensors, LogitMap()))
    assert torch.isfinite(ours).all()


def test_the_graph_may_be_walked_more_than_once():
    hidden, weight, bias, targets = inputs()
    logp = selected_logprobs(hidden, weight, bias, targets, LogitMap())
    first, second = torch.randn(2, NUM_TOKENS, dtype=torch.float64)
    wanted = (hidden, weight, bias)
    walks = [torch.autograd.grad(logp @ w, wanted, retain_graph=True) for w in (first, second)]
    together = torch.autograd.grad(logp @ (first + second), wanted)
    for one, two, both in zip(*walks, together, strict=True):
        torch.testing.assert_close(one + two, both, rtol=0, atol=1e-13)


def test_what_is_frozen_gets_no_gradient():
    hidden, weight, bias, targets = inputs()
    alone = {}
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        frozen = [t.detach() for t in (hidden, weight, bias)]
        tensors = [tensor if f.data_ptr() == tensor.data_ptr() else f for f in frozen]
        selected_logprobs(*tensors, targets, LogitMap()).sum().backward()
        assert all(t.grad is None for t in tensors if t is not tensor)
        alone[name] = tensor.grad
    together = gradients(
        lambda *t: selected_logprobs(*t, LogitMap()),
        (hidden, weight, bias, targets),
        torch.ones(NUM_TOKENS, dtype=torch.float64),
    )
    torch.testing.assert_close(tuple(alone.values()), together, rtol=0, atol=0)


def test_no_tokens_give_a_gradient_of_zero():
    hidden, weight, _, targets = inputs()
    selected_logprobs(hidden[:0], weight, None, targets[:0], LogitMap()).sum().backward()
    assert weight.grad.abs().max() == 0


def test_bfloat16_products_with_float32_weights():
    """As under autocast: bfloat16 is 8 bits, so a percent; sums over tokens do not add to it."""
    torch.manual_seed(0)
    hidden = torch.randn(512, 64, requires_grad=True)
    weight = (torch.randn(300, 64) / 8).requires_grad_()
    targets, weights_N = torch.randint(300, (512,)), torch.randn(512)
    exact = gradients(
        lambda *t: plain_logprobs(*t, LogitMap()), (hidden, weight, None, targets), weights_N
    )
    logp = selected_logprobs(hidden.bfloat16(), weight, None, targets, LogitMap())
    assert logp.dtype == torch.float32
    torch.testing.assert_close(
        logp, plain_logprobs(hidden, weight, None, targets, LogitMap()), rtol=0, atol=0.05
    )
    rough = torch.autograd.grad(logp @ weights_N, (hidden, weight))
    for ours, theirs in zip(rough, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def peak_of_loss(vocabulary: int, loss) -> int:
    """Bytes at the peak of forward and backward, beyond the gradient of the head's weight."""
    model = random_model("llama", vocabulary=vocabulary)
    model.get_input_embeddings().requires_grad_(False)
    torch.manual_seed(0)
    ids = torch.randint(vocabulary, (8, 64))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    with PeakMemory([*model.parameters(), ids, mask]) as memory:
        loss(model, ids, mask).backward()
    return memory.peak - 4 * model.lm_head.weight.numel()


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
    """8 rows x 64 tokens: 2 million logits in all with 4k entries, 33 million with 64k."""
    chunk = 2**18
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", chunk)

    def in_chunks(model, ids, mask):
        return token_logprobs(model, ids, mask, 1.0).sum()

    def at_once(model, ids, mask):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        return torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None]).sum()

    small, large = (peak_of_loss(vocabulary, in_chunks) for vocabulary in (2**12, 2**16))
    assert abs(large - small) < 0.1 * 4 * chunk
    assert peak_of_loss(2**16, at_once) > large + 2 * 4 * 500 * 2**16  # the test sees logits
    monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", 3 * chunk)
    assert 1.9 < (peak_of_loss(2**16, in_chunks) - large) / (4 * chunk) < 2.1


def small_config(model_type: str, **options):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return AutoConfig.for_model(model_type, **(sizes | options))


# What comes after the head in transformers: a factor, a divisor, a soft cap, a bias.
AFTER_THE_HEAD = {
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"final_logit_softcapping": 2.0},
    "recurrent_gemma": {"logits_soft_cap": 2.0, "num_hidden_layers": 3, "lru_width": 32},
    "falcon_h1": {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4},
    "hyperclovax": {"logits_scaling": 0.3},
    "nanochat": {"final_logit_softcapping": 2.0},
    "phi": {},
    "gptj": {"rotary_dim": 4, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 48},
}


@pytest.mark.parametrize("model_type", AFTER_THE_HEAD)
def test_what_architectures_do_after_their_head(model_type):
    torch.manual_seed(0)
    config = small_config(model_type, **AFTER_THE_HEAD[model_type])
    model = AutoModelForCausalLM.from_config(config).eval()
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    assert_fused_is_plain(model)
    check_head(model, "it")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whole_models_of_every_architecture(architecture):
    assert_fused_is_plain(random_model(architecture))


def assert_fused_is_plain(model) -> None:
    """Log-probabilities and gradients of all parameters, against the model's own logits."""
    model = model.double()
    torch.manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (3, 9))
    mask = torch.rand(ids.shape) < 0.6
    mask[:, 0] = False
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].double() / 0.8
    plain = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    fused = token_logprobs(model, ids, mask, 0.8)
    torch.testing.assert_close(fused[:, 1:], plain.where(mask[:, 1:], 0.0), rtol=0, atol=1e-6)
    weights = torch.rand(ids.shape, dtype=torch.float64) * mask
    parameters = list(model.parameters())
    walks = [
        torch.autograd.grad(value, parameters, allow_unused=True)
        for value in ((fused * weights).sum(), (plain * weights[:, 1:]).sum())
    ]
    largest = max(float(part.abs().max()) for part in walks[1] if part is not None)
    for ours, theirs in zip(*walks, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * largest)


class Surprising(LlamaForCausalLM):
    """Does to its logits what no configuration tells."""

    def forward(self, *arguments, **keywords):
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits.square()
        return output


def test_an_unknown_step_after_the_head_is_refused():
    torch.manual_seed(0)
    config = LlamaConfig(**small_config("llama").to_diff_dict())
    with pytest.raises(UserError, match=r"^it: log-probabilities of Surprising"):
        check_head(Surprising(config).eval(), "it")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_models_pass_in_every_dtype(architecture, dtype):
    check_head(random_model(architecture).to(dtype), "it")
