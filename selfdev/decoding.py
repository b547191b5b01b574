"""Key-value caches for decoding many rows with transformers: memory laid out beforehand, a shared prompt held once.

The layers of transformers copy the whole cache at each token (64 rows of 4M parameters, 230 + 150 tokens, one core:
31 s against 7 s). And rows that continue one prefix each hold it and read it again at each token: with a five-shot
prefix that is most of what attention costs. `prefix_cache` lets all rows attend to one copy, in one product.

Left out of the second: models whose attention is more than scaled dot products (soft caps, sinks, windows), and half
precision, where the scores would be rounded before the softmax.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from selfdev.errors import ModelError

_ATTENTION = "selfdev_shared_prefix"
# Those that hand keyword arguments down to an attention that is plain scaled dot products.
_PLAIN_ATTENTION = ("llama", "mistral", "qwen2", "qwen3")


def pick_tokens(
    logits: torch.Tensor, temperature: float, uniforms: torch.Tensor, who: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample by inverse CDF: tokens (rows,) at this temperature, and -log pi(token) at temperature 1, in nats (rows,).

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) in [0, 1), float64.
        who: for the error message.

    Raises:
        ModelError: probabilities that are not finite.
    """
    logits = logits.float()
    cdf = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1, dtype=torch.float64)  # (rows, vocabulary)
    total = cdf[:, -1]
    if not bool(torch.isfinite(total).all()):
        raise ModelError(f"{who} gives non-finite probabilities; its adapter diverged: train it more gently")
    # The first token whose cumulated probability exceeds the uniform; one of probability zero is never it.
    tokens = torch.searchsorted(cdf, (uniforms * total)[:, None], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    nll = -torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0]
    return tokens, nll


def roomy_cache(cache: Cache, rows: int, tokens: int) -> Cache:
    """The cache of one prompt (one row, or still empty) copied to `rows` rows, with room for `tokens` tokens in all.

    The given cache is not changed. Recurrent states, and windows shorter than `tokens`, stay as transformers has them.
    """
    return _with_layers(
        cache,
        [
            _RoomyLayer(layer, rows, tokens) if _is_plain(layer, tokens) else _repeated(layer, rows)
            for layer in cache.layers
        ],
    )


def can_share_prefix(model: Any) -> bool:
    """Whether `prefix_cache` may be used with a model; its attention is prepared for it then.

    Without such a cache the model computes what it did before.
    """
    if not isinstance(model, PreTrainedModel) or model.dtype != torch.float32:
        return False
    if model.config.model_type not in _PLAIN_ATTENTION or model.config._attn_implementation not in ("sdpa", _ATTENTION):
        return False
    model.set_attn_implementation(_ATTENTION)
    return True


def prefix_cache(cache: Cache, tokens: int) -> Cache | None:
    """The cache of one row as the prefix of any number of rows, each with room for `tokens` tokens of its own.

    To be given to the model twice: as `past_key_values` and as `shared_prefix`. None where a layer has a window that
    prefix and own tokens exceed.
    """
    if not all(_is_plain(layer, layer.get_seq_length() + tokens) for layer in cache.layers):
        return None
    return _with_layers(cache, [_SuffixLayer(layer, tokens) for layer in cache.layers])


def past_cache(cache: Cache, rows: int, tokens: int) -> Cache:
    """The cache of one row as what precedes `rows` rows in one forward pass up to `tokens` tokens in all.

    Nothing is copied to the rows, and nothing is kept of the pass. Layers that `roomy_cache` leaves as they are, are
    copied here too.
    """
    return _with_layers(
        cache,
        [_PastLayer(layer, rows) if _is_plain(layer, tokens) else _repeated(layer, rows) for layer in cache.layers],
    )


def _with_layers(cache: Cache, layers: list[Any]) -> Cache:
    changed = copy.copy(cache)
    changed.layers = layers
    return changed


def _is_plain(layer: Any, tokens: int) -> bool:
    if type(layer) is DynamicSlidingWindowLayer:  # one that is never filled is a plain one
        return bool(tokens < layer.sliding_window)
    return type(layer) is DynamicLayer


def _repeated(layer: Any, rows: int) -> Any:
    repeated = copy.deepcopy(layer)
    if repeated.is_initialized:
        repeated.batch_repeat_interleave(rows)
    return repeated


class _PastLayer(DynamicLayer):  # type: ignore[misc]
    """One row's keys and values, seen by every row; what a pass adds is handed on and forgotten."""

    def __init__(self, layer: DynamicLayer, rows: int) -> None:
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self.keys, self.values = layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of prefix and rows, of shape (rows, heads, tokens, width)."""
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values are views of the part of the memory that is written."""

    _keys: torch.Tensor  # (rows, heads, room, width)
    _values: torch.Tensor
    _written = 0  # tokens

    def __init__(self, layer: DynamicLayer, rows: int, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens
        if layer.is_initialized:
            assert layer.keys is not None
            assert layer.values is not None
            self._lay_out(layer.keys, layer.values, rows)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states of shape (rows, heads, tokens, width); returns all keys and values so far."""
        if self.is_initialized:
            start = self._written
            end = start + key_states.shape[-2]
            if end > self._tokens:  # writing beyond the end of a tensor is no error of its own
                raise RuntimeError(f"a cache with room for {self._tokens} tokens was given {end}")
            self._keys[:, :, start:end] = key_states
            self._values[:, :, start:end] = value_states
            self._show(end)
        else:
            self._lay_out(key_states, value_states, len(key_states))
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show(self._written)

    def _lay_out(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._keys, self._values = self._roomy(keys, rows), self._roomy(values, rows)
        self._show(keys.shape[-2])

    def _roomy(self, states: torch.Tensor, rows: int) -> torch.Tensor:
        _, heads, length, width = states.shape
        roomy = states.new_empty((rows, heads, self._tokens, width))
        roomy[:, :, :length] = states  # one row goes to all
        return roomy

    def _show(self, length: int) -> None:
        self._written = length
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]


class _SuffixLayer(_RoomyLayer):
    """What comes after the prefix; lengths count the prefix too, so that masks and positions cover both."""

    def __init__(self, prefix: DynamicLayer, tokens: int) -> None:
        super().__init__(DynamicLayer(), 0, tokens)
        assert prefix.keys is not None
        assert prefix.values is not None
        self.prefix = prefix.keys, prefix.values  # (1, heads, tokens, width) each

    def get_seq_length(self) -> int:
        """Tokens of the prefix and of a row."""
        return int(self.prefix[0].shape[-2]) + self._written


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: Cache | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention of queries (rows, heads, tokens, width); with a prefix, to that too."""
    if shared_prefix is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
        return output, None
    prefix_key, prefix_value = shared_prefix.layers[module.layer_idx].prefix
    if query.shape[2] == 1:
        return _one_token(query, key, value, attention_mask, prefix_key[0], prefix_value[0], scaling), None
    everything = [
        torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)
        for prefix, own in ((prefix_key, key), (prefix_value, value))
    ]
    output, _ = sdpa_attention_forward(module, query, *everything, attention_mask, scaling=scaling, **rest)
    return output, None


def _one_token(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    prefix_key: torch.Tensor,
    prefix_value: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """One query per row: (rows, heads, 1, width) -> (rows, 1, heads, width).

    All rows' queries of a head meet the prefix (key heads, prefix tokens, width) in one matrix product.
    """
    rows, heads, _, width = query.shape
    groups, shared = prefix_key.shape[:2]
    query = query.reshape(rows, groups, heads // groups, width) * (width**-0.5 if scaling is None else scaling)
    by_group = query.transpose(0, 1).reshape(groups, -1, width)  # (key heads, rows x queries, width)
    to_prefix = torch.bmm(by_group, prefix_key.transpose(1, 2)).view(groups, rows, -1, shared).transpose(0, 1)
    to_own = query @ key.transpose(2, 3)  # (rows, key heads, queries, own tokens)
    if mask is not None:  # (rows, 1, 1, prefix + own tokens); the prefix is never masked
        to_own = to_own.masked_fill(~mask[..., shared:], -torch.inf)
    weights = torch.cat([to_prefix, to_own], dim=-1).softmax(dim=-1)
    of_prefix = torch.bmm(weights[..., :shared].transpose(0, 1).reshape(groups, -1, shared), prefix_value)
    output = of_prefix.view(groups, rows, -1, width).transpose(0, 1) + weights[..., shared:] @ value
    return output.reshape(rows, 1, heads, width)


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
