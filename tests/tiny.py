"""A tiny random Llama and its byte-level tokenizer, built in the test session: no downloads, no fixtures on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
PAD = "<|pad|>"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte (256), then an end-of-sequence and a pad token: 258 in all; adds nothing by itself."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def tiny_llama(
    seed: int = 0, *, tied: bool = True, hidden: int = 32, layers: int = 2, std: float = 0.3
) -> LlamaForCausalLM:
    """A random Llama in float32 for `tiny_tokenizer`. A large `std` makes its text vary with the prompt."""
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=std,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=257,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save_tiny(directory: Path, model: LlamaForCausalLM | None = None, *, max_shard_size: str = "5GB") -> Path:
    """Write a model (default `tiny_llama()`) and its tokenizer as a standard directory."""
    (model or tiny_llama()).save_pretrained(directory, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def nudged(model: LlamaForCausalLM, seed: int, scale: float = 0.1) -> LlamaForCausalLM:
    """A copy with normal noise on every parameter: a stand-in for a model fine-tuned from `model`."""
    generator = torch.Generator().manual_seed(seed)
    copy = LlamaForCausalLM(model.config).eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return copy
