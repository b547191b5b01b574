"""The evaluator on plain transformers: the correctness reference, on CPU and GPU.

The seed's tensors are never written. The first time a parameter is merged it gets a second storage; applying a
candidate fills those storages and then points the parameters at them, restoring points them back. So the seed's bits
cannot be lost, an apply that fails half-way has changed nothing, and only touched parameters cost memory.

With `host_seed` the seed and the second storages lie in main memory and the device holds the model once: parameters are
copied in and back. The sums are the same; a candidate then costs a pass over it on the CPU and two transfers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch

from selfdev.errors import StageError
from selfdev.evaluators.greedy import GreedyDecoder, Workload
from selfdev.evaluators.validation import check_finite, check_merged
from selfdev.models import load_causal_lm
from selfdev.types import Completion


class TransformersEvaluator:
    """Implements `selfdev.evaluators.base.Evaluator`.

    Args:
        model_ref: the seed, see `selfdev.models.resolve`.
        device: where it runs.
        batch_size: prompts answered together; part of what completions depend on.
        max_new_tokens: limit per completion.
        stop: strings that end a completion.
        dtype: of the weights; "auto" keeps the checkpoint's.
        share_prefix: compute the tokens that all prompts begin with once per call.
        host_seed: keep the seed in main memory, for a device that holds the model only once.

    Raises:
        ModelError: the seed cannot be used.
        StageError: the device has no room for it.
    """

    def __init__(
        self,
        model_ref: str,
        device: torch.device | str,
        batch_size: int,
        max_new_tokens: int,
        stop: Sequence[str],
        dtype: torch.dtype | str = "auto",
        *,
        share_prefix: bool = True,
        host_seed: bool = False,
    ) -> None:
        self._device = torch.device(device)
        self._host_seed = host_seed
        model, tokenizer = load_causal_lm(model_ref, device, dtype)
        model.requires_grad_(False)
        self._parameters = dict(model.named_parameters())
        self._seed = {name: parameter.data for name, parameter in self._parameters.items()}
        if host_seed:
            self._seed = {name: tensor.to("cpu", copy=True) for name, tensor in self._seed.items()}
        self._checksums = self._resident_checksums()
        self._applied: list[str] = []  # names whose parameters do not hold the seed
        self._merged: dict[str, torch.Tensor] = {}  # second storages, kept from candidate to candidate
        self._decoder: GreedyDecoder | None = GreedyDecoder(
            model,
            tokenizer,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            stop=stop,
            share_prefix=share_prefix,
        )

    def seed_parameters(self) -> Mapping[str, torch.Tensor]:
        """The seed's parameters by name, tied ones once. Read only."""
        return MappingProxyType(self._seed)

    @torch.no_grad()
    def apply(self, merged: Mapping[str, torch.Tensor]) -> None:
        """Use seed + merged, added in float32 and cast once; names left out keep the seed's bits.

        Raises:
            ValueError: a name, shape or value does not fit, or the sum overflows the seed's dtype. The seed is in
                place then.
            StageError: the device has no room for a second storage. The seed is in place then.
        """
        self._put_seed()
        check_merged(self._seed, merged)
        try:
            for name, delta in merged.items():
                seed = self._seed[name]
                total = seed.float() + delta.to(seed.device, torch.float32)
                self._storage(name).copy_(total)
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"the device ran out of memory applying {len(merged)} merged parameters; models.scope=mlp or "
                "models.merge_on=host need less (`selfdev plan` counts)"
            ) from error
        check_finite("seed + merged", {name: self._merged[name] for name in merged})
        for name in merged:
            self._applied.append(name)
            self._put(name, self._merged[name])

    def restore(self) -> None:
        """Put the seed back.

        Raises:
            StageError: the seed's own tensors have been written by someone.
        """
        self._put_seed()
        if self._resident_checksums() != self._checksums:
            raise StageError("the seed's weights have changed in memory; results since then are void, run again")

    def generate(self, prompts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Completion]:
        """Greedy completions of the current weights, in the order of the prompts.

        `progress` is called after each batch with the number of prompts it answered.
        """
        return self._running().generate(prompts, progress)[0]

    def forecast(self, prompts: Sequence[str]) -> Workload:
        """What answering these prompts will cost at most, from two short runs on the first batch.

        Raises:
            DataError: a prompt is empty or too long.
        """
        return self._running().forecast(prompts)

    def self_check(self, prompts: Sequence[str], names: Collection[str] | None = None) -> None:
        """Check that changed weights reach the output and that restoring gives the seed's tokens back.

        Args:
            prompts: a few prompts.
            names: parameters to change; all of them by default.

        Raises:
            StageError: one of the two does not hold.
        """
        decoder = self._running()
        self.restore()
        before = decoder.generate(prompts)[1]
        self.apply(_Negated(self._seed, list(self._seed) if names is None else list(names)))
        try:
            changed = decoder.generate(prompts)[1]
        finally:
            self.restore()
        if changed == before:
            raise StageError("evaluator self-check: changed weights give the same tokens; the engine ignores updates")
        if decoder.generate(prompts)[1] != before:
            raise StageError("evaluator self-check: after restoring, the seed answers differently than before")

    def close(self) -> None:
        """Give the memory back; only `close` may be called afterwards."""
        self._decoder = None
        self._parameters, self._seed, self._merged = {}, {}, {}
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the generator or the trainer's process needs it next

    def _running(self) -> GreedyDecoder:
        if self._decoder is None:
            raise RuntimeError("this evaluator is closed")
        return self._decoder

    def _put_seed(self) -> None:
        for name in self._applied:
            self._put(name, self._seed[name])
        self._applied.clear()

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        if self._host_seed:
            self._parameters[name].data.copy_(tensor)
        else:
            self._parameters[name].data = tensor

    def _resident_checksums(self) -> list[int]:
        """Of the weights that answer: with the seed in place they are always the same."""
        return _checksums({name: parameter.data for name, parameter in self._parameters.items()})

    def _storage(self, name: str) -> torch.Tensor:
        if name not in self._merged:
            self._merged[name] = torch.empty_like(self._seed[name])
        return self._merged[name]


class _Negated(Mapping[str, torch.Tensor]):
    """The task vector that sets parameters to zero, made tensor by tensor."""

    def __init__(self, seed: Mapping[str, torch.Tensor], names: list[str]) -> None:
        self._seed = seed
        self._names = names

    def __getitem__(self, name: str) -> torch.Tensor:
        return -self._seed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksums(tensors: Mapping[str, torch.Tensor]) -> list[int]:
    """One sum per tensor over its bits as integers, wrapping: cheap on the device, changed by any single write."""
    sums = [
        tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in tensors.values()
    ]
    return torch.stack(sums).tolist() if sums else []
