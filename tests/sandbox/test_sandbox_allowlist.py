"""Every row of the allow-list runs, keeps the inputs' bits, and stays within the bound computed beforehand."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from selfdev_sandbox import Limits, sizes
from selfdev_sandbox.allowlist import OPS, Op
from selfdev_sandbox.contract import Budgets
from selfdev_sandbox.protocol import Call, Dtype, Gen, Raised, Ref, Slice
from selfdev_sandbox.rows import ROWS
from selfdev_sandbox.server import TensorServer

# Handles of the tensors that samples are made from.
M, V, IDX, MASK, INT, SPD, BATCH, SCALAR, POS, WIDE, COUNTS, IDX2, FLAT, DOUBLE = range(1, 15)


@functools.cache
def sample_tensors() -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.rand(4, 4, generator=generator) * 0.8 + 0.1  # in (0.1, 0.9): in the domain of acos, log, logit, ...
    return {
        M: matrix,
        V: torch.rand(4, generator=generator) + 0.1,
        IDX: torch.tensor([0, 2, 1, 3]),
        MASK: torch.tensor([[True, False, True, False]] * 4),
        INT: torch.arange(16).reshape(4, 4) % 5,
        SPD: matrix @ matrix.T + 4 * torch.eye(4),
        BATCH: torch.rand(2, 4, 4, generator=generator),
        SCALAR: torch.tensor(0.5),
        POS: torch.tensor([0.1, 0.2, 0.7]),
        WIDE: torch.rand(3, 4, generator=generator),
        COUNTS: torch.tensor([1, 2, 0, 1]),
        IDX2: torch.tensor([[0, 1, 2, 3]] * 4),
        FLAT: torch.rand(16, generator=generator),
        DOUBLE: torch.ones(3, dtype=torch.float64),
    }


_M, _V, _IDX, _MASK, _INT, _SPD = Ref(M), Ref(V), Ref(IDX), Ref(MASK), Ref(INT), Ref(SPD)
_FLOAT = Dtype("float32")

# Arguments where the first parameter's kind does not say enough.
ARGUMENTS: dict[str, list[Any]] = {
    "where": [_MASK, _M, 0.0],
    "getitem": [_M, [Slice(0, 2, None), _IDX]],
    "setitem": [_M, [Slice(0, 2, None), _IDX], 1.0],
    "acosh": [_SPD],
    "to": [_M, Dtype("bfloat16"), True],
    "tensor": [[1.0, 2.0], [2]],
    "new_tensor": [_M, [1.0, 2.0], [2]],
    "full": [[2, 3], 1.5],
    "new_full": [_M, [2, 3], 1.5],
    "zeros": [2, 3],
    "ones": [[2, 3]],
    "empty": [2, 3],
    "eye": [3, 4],
    "new_zeros": [_M, 2, 3],
    "new_ones": [_M, [2, 3]],
    "new_empty": [_M, 2],
    "arange": [1, 10, 2],
    "linspace": [0, 1, 7],
    "logspace": [0, 1, 7],
    "tril_indices": [3, 4],
    "triu_indices": [3, 4],
    "rand": [2, 3],
    "randn": [[2, 3]],
    "randint": [0, 5, [2, 3]],
    "randperm": [6],
    "randint_like": [_M, 3],
    "normal": [_M, 1.0],
    "bernoulli": [_M],
    "multinomial": [Ref(POS), 5, True],
    "seed_generator": [Gen(0), 5],
    "view": [_M, 2, 8],
    "reshape": [_M, [2, 8]],
    "unflatten": [_M, 0, [2, 2]],
    "permute": [_M, 1, 0],
    "movedim": [_M, 0, 1],
    "moveaxis": [_M, 0, 1],
    "expand": [_V, 3, 4],
    "broadcast_to": [_V, [3, 4]],
    "narrow": [_M, 0, 1, 2],
    "select": [_M, 0, 1],
    "unfold": [_M, 0, 2, 1],
    "split": [_M, 2],
    "tensor_split": [_M, 2],
    "hsplit": [_M, 2],
    "vsplit": [_M, 2],
    "meshgrid": [_V, _V],
    "broadcast_tensors": [_V, _M],
    "stack": [[_M, _M]],
    "block_diag": [_M, _V],
    "repeat": [_M, 2, 3],
    "tile": [_M, 2, 3],
    "repeat_interleave": [_V, Ref(COUNTS)],
    "flip": [_M, 0, 1],
    "rot90": [_M, 1, [0, 1]],
    "roll": [_M, [1], [0]],
    "diag": [_V, 1],
    "diag_embed": [_V, 1],
    "diagflat": [_M, 1],
    "vander": [_V, 3],
    "kron": [_M, _V],
    "outer": [_V, _V],
    "ger": [_V, _V],
    "view_as": [_M, Ref(FLAT)],
    "reshape_as": [_M, Ref(FLAT)],
    "expand_as": [_V, _M],
    "t": [_M],
    "gather": [_M, 0, Ref(IDX2)],
    "take_along_dim": [_M, Ref(IDX2), 0],
    "take": [_M, _IDX],
    "index_select": [_M, 0, _IDX],
    "masked_scatter": [_M, _MASK, Ref(FLAT)],
    "scatter": [_M, 0, Ref(IDX2), 1.0],
    "scatter_add": [_M, 0, Ref(IDX2), _SPD],
    "scatter_reduce": [_M, 0, Ref(IDX2), _SPD, "sum"],
    "index_add": [_M, 0, _IDX, _SPD],
    "index_copy": [_M, 0, _IDX, _SPD],
    "index_fill": [_M, 0, _IDX, 1.0],
    "dot": [_V, _V],
    "vdot": [_V, _V],
    "bmm": [Ref(BATCH), Ref(BATCH)],
    "mv": [_M, _V],
    "addmv": [_V, _M, _V],
    "addr": [_M, _V, _V],
    "addmv_": [_V, _M, _V],
    "baddbmm": [Ref(BATCH), Ref(BATCH), Ref(BATCH)],
    "tensordot": [_M, _M, 1],
    "einsum": ["ij,jk->ik", _M, _M],
    "cross": [Ref(WIDE), Ref(WIDE), 0],
    "linalg.cholesky": [_SPD],
    "linalg.eigh": [_SPD],
    "linalg.eigvalsh": [_SPD],
    "logdet": [_SPD],
    "linalg.multi_dot": [[_M, _M, _M]],
    "linalg.matrix_power": [_M, 2],
    "matrix_power": [_M, 2],
    "quantile": [_M, Ref(POS), 0],
    "nanquantile": [_M, 0.5],
    "histc": [_M, 5],
    "searchsorted": [Ref(IDX), _INT],
    "bucketize": [_M, Ref(POS)],
    "topk": [_M, 2],
    "kthvalue": [_M, 2],
    "renorm": [_M, 2, 0, 1.0],
    "ldexp": [_M, _INT],
    "nn.functional.layer_norm": [_M, [4]],
    "nn.functional.pad": [_M, [1, 2]],
    "nn.functional.one_hot": [_INT],
    "nn.functional.avg_pool1d": [Ref(BATCH), 2],
    "nn.functional.max_pool1d": [Ref(BATCH), 2],
    "combinations": [_V, 2],
    "norm": [_M],
    "linalg.norm": [_M],
    "linalg.cond": [_SPD],
    "nn.functional.threshold": [_M, 0.5, 0.0],
    "linalg.cross": [Ref(POS), Ref(POS)],
    "aminmax": [_M],
    "linalg.inv": [_SPD],
    "atleast_1d": [_M],
    "fill_diagonal_": [_M, 0.0],
    "bernoulli_": [_M, 0.5],
    "copy": [_M, Ref(BATCH)],
    "isin": [_M, _M],
    "logical_not": [_MASK],
    "unique": [_INT],
    "full_like": [_M, 2.0],
    "fill": [_M, 1.0],
    "masked_fill": [_M, _MASK, 0.0],
    "masked_select": [_M, _MASK],
    "float_power": [_M, 2.0],
    "bincount": [Ref(COUNTS)],
    "clip": [_M, 0.2, 0.6],
    "float_power_": [Ref(DOUBLE), 2.0],
    "rdiv": [_M, 2],
    "rpow": [_M, 2],
    "rfloordiv": [_M, 2],
    "rmod": [_M, 2],
}
ARGUMENTS["copy"] = [_M, _SPD]
for _name in ("cat", "concat", "concatenate", "hstack", "vstack", "dstack", "row_stack", "column_stack"):
    ARGUMENTS[_name] = [[_M, _M]]
_INTEGER = ("bitwise_",)
_BY_KIND = {
    "n": 0.5,
    "i": 1,
    "b": False,
    "l": [0],
    "L": [1.0],
    "d": _FLOAT,
    "s": "sum",
    "T": [_M, _M],
    "g": Gen(0),
    "x": [0],
}
_NEED_ONE = frozenset(
    [
        "dim0",
        "dim1",
        "dim",
        "n",
        "chunks",
        "lambd",
        "min_val",
        "negative_slope",
        "weight",
        "value",
        "mat1",
        "mat2",
        "vec",
        "alpha_",
        "end",
        "exponent",
    ]
)


def arguments(op: Op) -> list[Any]:
    """A sample call: the row of `ARGUMENTS`, else the required-looking leading parameters by kind."""
    for name in (op.name, op.name.rstrip("_")):
        if name in ARGUMENTS:
            given = list(ARGUMENTS[name])
            if op.name == "reshape" and "m" in op.forms:
                return [_M, 2, 8]
            return given
    made: list[Any] = []
    for position, param in enumerate(op.params):
        tensor = _INT if op.name.startswith(_INTEGER) else _M
        if "t" in param.kinds and (
            position < 3 and param.name not in ("weights", "bias", "min", "max", "q", "repeats")
        ):
            made.append(tensor)
        elif position == 1 and param.name in _NEED_ONE:
            made.append(_BY_KIND[param.kinds[0]])
        elif op.name.startswith("clamp") and param.name in ("min", "max"):
            made.append(0.2 if param.name == "min" else 0.6)
        elif param.name in ("dim0", "dim1") or (op.name.startswith(("lerp",)) and param.name == "weight"):
            made.append(_BY_KIND[param.kinds[-1]])
        else:
            break
    if op.name in ("max", "min", "median", "nanmedian", "mode"):
        return made[:1]
    return made


def new_server() -> TensorServer:
    server = TensorServer(Limits(), Budgets(1 << 30, 1 << 40, 1e15, 20_000), 5, torch.device("cpu"))
    for handle, tensor in sample_tensors().items():
        server.memory.add(handle, tensor, protected=True)
    return server


def call_of(number: int, args: list[Any]) -> Call:
    op = OPS[number]
    single = (
        op.outputs == 1 or op.name == "where" or (op.name in ("max", "min", "median", "nanmedian") and len(args) == 1)
    )
    return Call(number, 0 if op.writes else 100, 1, not single and not op.writes, args, {})


def check_row(number: int) -> None:
    """Run one row on samples; every assertion names what went wrong."""
    op = OPS[number]
    server = new_server()
    inputs = dict(server.memory.tensors)
    before = {handle: tensor.clone() for handle, tensor in inputs.items()}
    call = call_of(number, arguments(op))
    answer = server.handle(call)
    assert server.failed is None, server.failed
    assert not isinstance(answer, Raised), answer
    for handle, tensor in inputs.items():
        assert torch.equal(tensor, before[handle]), "an input of the caller changed"
    if op.writes:
        target = call.args[0].i
        assert server.memory.tensors[target].data_ptr() != inputs[target].data_ptr(), "wrote to the caller's memory"
        return
    assert op.name == "seed_generator" or max(server.memory.tensors) >= 100, "no result"
    if op.size == "view":
        assert server.memory.live == 0, "a row marked as a view allocates"
        return
    plain, named = new_server().arguments.of(ROWS[number], call)
    assert sizes.output_bytes(op, plain, named) >= server.memory.live, "more was allocated than the bound"


@pytest.mark.filterwarnings("ignore")
def test_every_row_runs_within_its_bound_and_keeps_the_inputs() -> None:
    wrong = []
    for number, op in enumerate(OPS):
        try:
            check_row(number)
        except AssertionError as error:
            wrong.append(f"{op.name} ({op.forms}): {str(error).splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


def test_random_rows_depend_on_the_seed_only() -> None:
    for number in (n for n, op in enumerate(OPS) if op.random):
        drawn = []
        for _ in range(2):
            torch.rand(len(drawn) + 1)  # PyTorch's own generator must not matter
            server = new_server()
            server.handle(call_of(number, arguments(OPS[number])))
            drawn.append(server.memory.tensors[M if OPS[number].writes else 100])
        assert torch.equal(drawn[0], drawn[1]), OPS[number].name


def test_rows_marked_like_keep_shape_and_dtype() -> None:
    for number in (n for n, op in enumerate(OPS) if op.like and op.outputs == 1):
        server = new_server()
        server.handle(call_of(number, [Ref(V), *arguments(OPS[number])[1:]]))
        assert server.failed is None, OPS[number].name
        result = server.memory.tensors[100]
        assert (result.shape, result.dtype) == ((4,), torch.float32), OPS[number].name


@pytest.mark.parametrize(
    "name", ["gather", "index_select", "take", "getitem", "scatter_", "index_add_", "take_along_dim"]
)
def test_indices_out_of_range_are_refused_before_the_operation(name: str) -> None:
    server = new_server()
    server.memory.add(
        50,
        torch.tensor([[0, 1, 2, 9]] * 4)
        if name in ("gather", "scatter_", "take_along_dim")
        else torch.tensor([0, 1, 2, 99]),
    )
    number = next(n for n, op in enumerate(OPS) if op.name == name)
    args = [Ref(50) if a in (Ref(IDX), Ref(IDX2)) else a for a in arguments(OPS[number])]
    if name == "getitem":
        args = [_M, [Ref(50)]]
    server.handle(call_of(number, args))
    assert server.failed is not None
    assert "out of bounds" in server.failed.error


def _row(name: str) -> int:
    return next(n for n, op in enumerate(OPS) if op.name == name)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("linalg.matrix_power", [_M, -(2**63)], "too small"),
        ("roll", [_M, [1] * 129, [0] * 129], "at most 128"),
        ("getitem", [_M, [None] * 129], "at most 128"),
        ("flip", [_M, *[0] * 129], "at most 128"),
        ("permute", [_M, [0, -(2**63)]], "too small"),
    ],
)
def test_arguments_on_which_pytorch_never_ends_are_refused(name: str, args: list[Any], says: str) -> None:
    server = new_server()
    server.handle(Call(_row(name), 100, 1, False, args, {}))
    assert server.failed is not None
    assert says in server.failed.error


@pytest.mark.parametrize(
    ("name", "args", "least"),
    [
        ("multinomial", [torch.ones(1000, 10), 50, True], 8 * 1000 * 50),  # rows times samples, int64
        ("roll", [torch.ones(1000), [1] * 5, [0] * 5], 5 * 4000),  # every step is held until the last
    ],
)
def test_bounds_count_what_is_held_meanwhile(name: str, args: list[Any], least: int) -> None:
    assert sizes.output_bytes(OPS[_row(name)], args, {}) >= least


def test_work_follows_the_arguments() -> None:
    """Norms are cubic by singular values only; powers, integers and odd distances cost what they cost."""

    def work(name: str, *args: Any) -> float:
        return sizes.flops(OPS[_row(name)], list(args), {}, 1000)

    m, n = torch.ones(100, 100), torch.ones(100, 100, dtype=torch.int64)
    assert work("linalg.norm", m) == work("linalg.matrix_norm", m, "fro") == 1000
    assert work("linalg.norm", m, "nuc") >= 20 * 100**3
    assert work("linalg.matrix_power", m, 2**40) >= 10 * work("linalg.matrix_power", m, 2)
    assert work("matrix_exp", 1e30 * m) >= 10 * work("matrix_exp", 1e-3 * m)
    assert work("matmul", n, n) >= 100 * work("matmul", m, m)
    assert work("cdist", m, m, 1.5) >= 10 * work("cdist", m, m, 2.0)
    assert work("linalg.svd", torch.ones(1000, 2, 2)) >= 1e8
