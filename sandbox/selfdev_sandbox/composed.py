"""PyTorch functions that PyTorch itself builds from others, built here the same way so that every bit agrees.

Source: `torch/_lowrank.py` (Halko et al. 2009, algorithms 4.4 and 5.1), without sparse inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfdev_sandbox.allowlist import NUMBER
from selfdev_sandbox.client import Tensor, run
from selfdev_sandbox.guards import Missing
from selfdev_sandbox.values import DTYPES, Named, Size


def _basis(matrix: Any, q: int, niter: int) -> Any:
    """Orthonormal columns whose span approximates the matrix's range."""
    dtype = matrix.dtype if matrix.dtype.name in ("float16", "float32", "float64") else DTYPES["float32"]
    start = run(NUMBER["t", "randn"], (matrix.shape[-1], q), {"dtype": dtype})
    columns = _orthonormal(matrix @ start)
    for _ in range(niter):
        columns = _orthonormal(matrix.mT @ columns)
        columns = _orthonormal(matrix @ columns)
    return columns


def _orthonormal(matrix: Any) -> Any:
    return run(NUMBER["l", "linalg.qr"], (matrix,), {})[0]


def svd_lowrank(A: Any, q: int | None = 6, niter: int | None = 2, M: Any = None) -> Any:
    """`torch.svd_lowrank`: U, S, V of a random low-rank approximation; draws from the default generator."""
    matrix = A if M is None else A - M.broadcast_to(A.shape)
    rows, columns = matrix.shape[-2:]
    tall = matrix.mT if rows < columns else matrix
    basis = _basis(tall, 6 if q is None else int(q), 2 if niter is None else int(niter))
    u, s, vh = run(NUMBER["l", "linalg.svd"], (basis.mT @ tall,), {"full_matrices": False})
    u, v = basis.matmul(u), vh.mT
    made = Named((v, s, u) if rows < columns else (u, s, v))
    made.fields = ("U", "S", "V")
    return made


def pca_lowrank(A: Any, q: int | None = None, center: bool = True, niter: int = 2) -> Any:
    """`torch.pca_lowrank`."""
    smallest = min(A.shape[-2:])
    q = min(6, smallest) if q is None else int(q)
    if not 0 <= q <= smallest:
        raise ValueError(f"q(={q}) must be non-negative integer and not greater than min(m, n)={smallest}")
    return svd_lowrank(A - A.mean(dim=(-2,), keepdim=True) if center else A, q, niter)


def index_put_(target: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """`Tensor.index_put_` without accumulation."""
    if accumulate:
        raise Missing("index_put_(accumulate=True) is not available here; use index_add_ or scatter_add_")
    target[tuple(indices)] = values
    return target


def broadcast_shapes(*shapes: Any) -> Size:
    """`torch.broadcast_shapes`."""
    made: list[int] = []
    lists = [[shape] if type(shape) is int else list(shape) for shape in shapes]
    for axis in range(-max(map(len, lists), default=0), 0):
        sizes = {s[axis] for s in lists if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            raise RuntimeError("Shape mismatch: objects cannot be broadcast to a single shape")
        made.append(sizes.pop() if sizes else 1)
    return Size(made)


# What `torch.special` calls by another name, or shares with `torch`.
_SPECIAL = {"expit": "sigmoid", "gammaln": "lgamma", "psi": "digamma"}
_SHARED = "digamma erf erfc erfinv exp2 expm1 i0 log1p log_softmax logit logsumexp round sinc softmax xlogy"
_INPLACE = (
    "abs_ ceil_ clamp_ cos_ exp_ fill_ floor_ log_ nan_to_num_ neg_ reciprocal_ relu_ round_ rsqrt_ sigmoid_ sin_ sqrt_"
    " square_ tanh_ trunc_ zero_"
)


def special(table: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """`torch.special`, from the functions of `torch`."""
    known = {name: name for name in _SHARED.split()} | _SPECIAL
    return {name: table[other] for name, other in known.items()}


def functions() -> dict[str, Callable[..., Any]]:
    """What this module adds to `torch`; methods in place are functions there too."""
    made: dict[str, Callable[..., Any]] = {name: getattr(Tensor, name) for name in _INPLACE.split()}
    return made | {
        "svd_lowrank": svd_lowrank,
        "pca_lowrank": pca_lowrank,
        "broadcast_shapes": broadcast_shapes,
        "index_put_": index_put_,
    }
