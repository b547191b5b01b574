"""Operations that differ from the PyTorch function of the same name: operators, indexing, new tensors, randomness.

New tensors are made on the run's device, which the server passes to the operations in `CREATES`. Random draws come only
from generators that this run owns; PyTorch's global state is never read or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Randomness:
    """The generators of one run: number 0 is the default one, seeded with the run's seed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device
        self._made: dict[int, torch.Generator] = {}

    def generator(self, number: int) -> torch.Generator:
        """The generator of that number; until seeded, its seed is derived from the run's."""
        found = self._made.get(number)
        if found is None:
            if len(self._made) > 1000:
                raise RuntimeError("more than 1000 random generators")
            found = torch.Generator(self.device)
            digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
            found.manual_seed(self.seed & ((1 << 63) - 1) if number == 0 else int.from_bytes(digest[:7], "little"))
            self._made[number] = found
        return found

    @property
    def default(self) -> torch.Generator:
        return self.generator(0)


def _seed_generator(_random: Randomness, generator: torch.Generator, seed: int) -> None:
    generator.manual_seed(seed)


def _getitem(tensor: Tensor, index: list[Any]) -> Tensor:
    return tensor[tuple(index)]


def _setitem(tensor: Tensor, index: list[Any], value: Any) -> None:
    tensor[tuple(index)] = value


def _to(tensor: Tensor, dtype: torch.dtype, copy: bool = False) -> Tensor:
    return tensor.to(dtype, copy=copy)


def _copy(target: Tensor, source: Tensor) -> Tensor:
    return target.copy_(source)


def _tensor(
    data: Any, shape: list[int] | None = None, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    made = torch.tensor(data, dtype=dtype, device=device)
    return made if shape is None else made.reshape(shape)


def _new_tensor(input: Tensor, data: Any, shape: list[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    return _tensor(data, shape, dtype or input.dtype, input.device)


def _empty(*size: Any, dtype: torch.dtype | None = None, **named: Any) -> Tensor:
    return torch.zeros(*size, dtype=dtype, **named)


def _new_empty(tensor: Tensor, *size: Any, **named: Any) -> Tensor:
    return tensor.new_zeros(*size, **named)


def _rand(random: Randomness, *size: Any, generator: torch.Generator | None = None, **named: Any) -> Tensor:
    return torch.rand(*size, generator=generator or random.default, **named)


def _randn(random: Randomness, *size: Any, generator: torch.Generator | None = None, **named: Any) -> Tensor:
    return torch.randn(*size, generator=generator or random.default, **named)


def _randint(
    random: Randomness, low: int, high: int, size: Any, generator: torch.Generator | None = None, **named: Any
) -> Tensor:
    return torch.randint(
        low, high, size if isinstance(size, list) else (size,), generator=generator or random.default, **named
    )


def _randperm(random: Randomness, n: int, generator: torch.Generator | None = None, **named: Any) -> Tensor:
    return torch.randperm(n, generator=generator or random.default, **named)


def _like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(
        random: Randomness, input: Tensor, dtype: torch.dtype | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        return draw(
            tuple(input.shape), generator=generator or random.default, dtype=dtype or input.dtype, device=input.device
        )

    return call


def _randint_like(
    random: Randomness, input: Tensor, low: int, high: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    low, high = (0, low) if high is None else (low, high)
    return torch.randint(
        low, high, tuple(input.shape), generator=random.default, dtype=dtype or input.dtype, device=input.device
    )


def _normal(
    random: Randomness,
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    source = generator or random.default
    if isinstance(std, Tensor) and std.numel() and not bool((std >= 0).all()):
        raise RuntimeError("normal expects all elements of std >= 0.0")
    if size is None:
        return torch.normal(mean, std, generator=source)
    return torch.normal(mean, std, size if isinstance(size, list) else (size,), generator=source, device=device)


def _probabilities(p: Any) -> None:
    """On an accelerator a probability outside [0, 1] would poison the device."""
    if isinstance(p, Tensor) and p.numel() and not bool(((p >= 0) & (p <= 1)).all()):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true")


def _bernoulli(
    random: Randomness, input: Tensor, p: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    source = generator or random.default
    if p is not None:
        return torch.bernoulli(input, p, generator=source)
    _probabilities(input)
    return torch.bernoulli(input, generator=source)


def _bernoulli_(random: Randomness, input: Tensor, p: Any = 0.5, generator: torch.Generator | None = None) -> Tensor:
    _probabilities(p)
    return input.bernoulli_(p, generator=generator or random.default)


def _multinomial(
    random: Randomness,
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    if not bool((torch.isfinite(input) & (input >= 0)).all()) or not bool((input.sum(-1) > 0).all()):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0, or sums to 0")
    return torch.multinomial(input, num_samples, replacement, generator=generator or random.default)


def _filler(name: str) -> Callable[..., Tensor]:
    def call(
        random: Randomness, input: Tensor, *args: Any, generator: torch.Generator | None = None, **named: Any
    ) -> Tensor:
        made: Tensor = getattr(input, name)(*args, generator=generator or random.default, **named)
        return made

    return call


def _dropout(random: Randomness, input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """As PyTorch's CPU dropout draws it, from the run's generator."""
    if not training or p == 0:
        return input.clone()
    if p == 1:
        return torch.zeros_like(input)
    noise = torch.empty_like(input).bernoulli_(1 - p, generator=random.default).div_(1 - p)
    return input * noise


CREATES = frozenset(
    [
        "zeros",
        "ones",
        "empty",
        "full",
        "tensor",
        "arange",
        "linspace",
        "logspace",
        "eye",
        "tril_indices",
        "triu_indices",
        "rand",
        "randn",
        "randint",
        "randperm",
        "normal",
    ]
)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "rdiv": Tensor.__rtruediv__,
    "rpow": Tensor.__rpow__,
    "rfloordiv": Tensor.__rfloordiv__,
    "rmod": Tensor.__rmod__,
    "mT": lambda input: input.mT,
    "T": lambda input: input.T,
    "getitem": _getitem,
    "setitem": _setitem,
    "to": _to,
    "copy": _copy,
    "tensor": _tensor,
    "new_tensor": _new_tensor,
    "empty": _empty,
    "new_empty": _new_empty,
    "empty_like": torch.zeros_like,
    "rand": _rand,
    "randn": _randn,
    "randint": _randint,
    "randperm": _randperm,
    "rand_like": _like(torch.rand),
    "randn_like": _like(torch.randn),
    "randint_like": _randint_like,
    "normal": _normal,
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_,
    "multinomial": _multinomial,
    "uniform_": _filler("uniform_"),
    "normal_": _filler("normal_"),
    "exponential_": _filler("exponential_"),
    "nn.functional.dropout": _dropout,
    "seed_generator": _seed_generator,
}
