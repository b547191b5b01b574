"""Small models that vLLM can run on a CPU: heads of 32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from selfdev.config import VllmConfig
from tests.tiny import save_tiny, tiny_llama, tiny_tokenizer

SETTINGS = VllmConfig(kv_cache_bytes=32 << 20)
END_ID = 256


def save_small(directory: Path, *, tied: bool = True, std: float = 0.3) -> str:
    """A random Llama whose text depends on the prompt."""
    return str(save_tiny(directory, tiny_llama(tied=tied, hidden=128, std=std)))


def save_constant(directory: Path, logits: torch.Tensor) -> str:
    """A model that answers with these logits (258,) at every position.

    All embeddings are ones and no layer adds to them, so the last norm gives ones again; the head sums its rows up.
    """
    model = tiny_llama(tied=False, hidden=128)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.copy_((logits / 128)[:, None].expand(258, 128))
    return str(save_tiny(directory, model))


def peaked(scores: Mapping[int, float]) -> torch.Tensor:
    """Logits (258,) of -50 but for these tokens."""
    logits = torch.full((258,), -50.0)
    for token, score in scores.items():
        logits[token] = score
    return logits


def byte(character: str) -> int:
    """The token of an ASCII character."""
    return int(tiny_tokenizer().convert_tokens_to_ids(character))
