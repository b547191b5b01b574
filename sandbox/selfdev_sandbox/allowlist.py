"""The allow-list: every tensor operation a program can ask for, as one table of data, free of torch.

A row gives a name, its parameters with the kinds of values each takes, where a program finds it, how many tensors it
gives, how its output is bounded before it runs, what it costs, and whether it takes indices, draws random numbers or
writes to its first argument. The client builds its `torch` from the table, the server refuses what is not in it.

Parameter kinds: t tensor, n number, i int, b bool, l int or list of ints, L list of numbers, d dtype, s word,
T list of tensors (or one tensor), g generator, x index. `None` is taken everywhere. `+`: the rest, one by one.
Forms: t `torch.NAME`, m `Tensor.NAME`, _ `Tensor.NAME_` (in place), f `torch.nn.functional.NAME`,
l `torch.linalg.NAME`, o an operator or helper of the client.
Output bounds: same (broadcast of the inputs), view (none), reduce (at most the largest input), total (all inputs),
own (a formula of its own, in `sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: its name and the kinds of values it takes."""

    name: str
    kinds: str
    rest: bool = False  # takes all further positional arguments


@dataclass(frozen=True, slots=True)
class Op:
    """One row of the allow-list."""

    name: str  # "add", "add_", "linalg.svd", "nn.functional.relu"
    params: tuple[Param, ...]
    forms: str
    outputs: int = 1  # 1: one tensor, asynchronous; 0: as the arguments have it, the program waits
    fields: tuple[str, ...] = ()  # names of several results
    size: str = "same"
    cost: str = "linear"  # linear | sort | matmul | cubic | einsum
    indices: str = ""  # parameter that holds indices into the first argument
    random: bool = False
    writes: bool = False
    like: bool = False  # result has the shape of the first argument, and its dtype when that is floating

    def parameter(self, position: int) -> Param | None:
        """The parameter that takes a positional argument; one marked `+` takes all from its place on."""
        for param in self.params[: position + 1]:
            if param.rest:
                return param
        return self.params[position] if position < len(self.params) else None

    @property
    def rest(self) -> bool:
        """Whether any number of positional arguments is taken."""
        return any(param.rest for param in self.params)


def _params(text: str) -> tuple[Param, ...]:
    out = []
    for item in text.split():
        name, kinds = item.split(":")
        out.append(Param(name, kinds.rstrip("+"), kinds.endswith("+")))
    return tuple(out)


def _rows(names: str, params: str, forms: str, **flags: object) -> Iterator[Op]:
    """Rows of one family; the in-place form becomes a row of its own."""
    for name in names.split():
        row = Op(name, _params(params), forms, **flags)  # type: ignore[arg-type]
        if "l" in forms:
            yield replace(row, name=f"linalg.{name}", forms="l")
        if "f" in forms:
            yield replace(row, name=f"nn.functional.{name}", forms="f")
        plain = "".join(f for f in forms if f in "tmo")
        if plain:
            yield replace(row, forms=plain)
        if "_" in forms:
            yield replace(row, name=f"{name}_", forms="m", writes=True, like=False)


_DIM = "input:t dim:l keepdim:b dtype:d"


def _table() -> Iterator[Op]:
    # Elementwise, one tensor.
    yield from _rows(
        "abs absolute acos acosh asin asinh atan atanh ceil cos cosh deg2rad rad2deg digamma erf erfc erfinv exp exp2"
        " expm1 fix floor frac i0 lgamma log log10 log1p log2 neg negative reciprocal rsqrt sgn sigmoid sign sin sinc"
        " sinh sqrt square tan tanh trunc relu",
        "input:t",
        "tm_",
        like=True,
    )
    yield from _rows("arccos arccosh arcsin arcsinh arctan arctanh", "input:t", "tm", like=True)
    yield from _rows("positive conj_physical", "input:t", "tm", like=True)
    yield from _rows("isfinite isinf isnan isposinf isneginf isreal signbit", "input:t", "tm")
    yield from _rows("logical_not bitwise_not", "input:t", "tm_")
    yield from _rows("round", "input:t decimals:i", "tm_", like=True)
    yield from _rows("nan_to_num", "input:t nan:n posinf:n neginf:n", "tm_", like=True)
    yield from _rows("logit", "input:t eps:n", "tm_", like=True)
    yield from _rows("clamp clip", "input:t min:tn max:tn", "tm_")
    yield from _rows("clamp_min", "input:t min:tn", "tm_")
    yield from _rows("clamp_max", "input:t max:tn", "tm_")
    # Elementwise, two tensors or a tensor and a number.
    yield from _rows("add sub subtract", "input:tn other:tn alpha:n", "tm_")
    yield from _rows("rsub", "input:t other:tn alpha:n", "t")
    yield from _rows("mul multiply float_power floor_divide fmod remainder true_divide", "input:tn other:tn", "tm_")
    yield from _rows("pow", "input:tn exponent:tn", "tm_")
    yield from _rows("div divide", "input:tn other:tn rounding_mode:s", "tm_")
    yield from _rows("eq ne lt le gt ge greater greater_equal less less_equal not_equal", "input:t other:tn", "tm_")
    yield from _rows("logical_and logical_or logical_xor", "input:t other:t", "tm_")
    yield from _rows(
        "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift", "input:tn other:tn", "tm_"
    )
    yield from _rows("maximum minimum fmax fmin logaddexp logaddexp2", "input:t other:t", "tm")
    yield from _rows("atan2 arctan2 copysign hypot nextafter xlogy heaviside ldexp", "input:tn other:tn", "tm_")
    yield from _rows("isclose", "input:t other:t rtol:n atol:n equal_nan:b", "tm")
    yield from _rows("lerp", "input:t end:t weight:tn", "tm_")
    yield from _rows("addcmul addcdiv", "input:t tensor1:t tensor2:t value:n", "tm_")
    yield from _rows("where", "condition:t input:tn other:tn", "t", outputs=0, size="own")
    yield from _rows("masked_fill", "input:t mask:t value:tn", "tm_")
    # Operators of Python with the tensor on the right, exactly as PyTorch defines them.
    yield from _rows("rdiv rpow rfloordiv rmod", "input:t other:n", "o")
    # Reductions.
    yield from _rows("sum nansum mean nanmean", _DIM, "tm", size="reduce")
    yield from _rows("prod", "input:t dim:i keepdim:b dtype:d", "tm", size="reduce")
    yield from _rows("amax amin", "input:t dim:l keepdim:b", "tm", size="reduce")
    yield from _rows("logsumexp count_nonzero", "input:t dim:l keepdim:b", "tm", size="reduce")
    yield from _rows("std var", "input:t dim:lb unbiased:b keepdim:b correction:n", "tm", size="reduce")
    yield from _rows(
        "std_mean var_mean", "input:t dim:lb unbiased:b keepdim:b correction:n", "t", outputs=0, size="reduce"
    )
    yield from _rows("norm", "input:t p:ns dim:l keepdim:b dtype:d", "tm", size="reduce")
    yield from _rows("dist", "input:t other:t p:n", "tm", size="reduce")
    yield from _rows("all any", "input:t dim:l keepdim:b", "tm", size="reduce")
    yield from _rows("argmax argmin", "input:t dim:i keepdim:b", "tm", size="reduce")
    yield from _rows("max min", "input:t dim:it keepdim:b other:t", "tm", outputs=0, fields=("values", "indices"))
    yield from _rows("aminmax", "input:t dim:i keepdim:b", "tm", outputs=0, fields=("min", "max"), size="reduce")
    yield from _rows(
        "median nanmedian mode", "input:t dim:i keepdim:b", "tm", outputs=0, fields=("values", "indices"), cost="sort"
    )
    yield from _rows(
        "quantile nanquantile", "input:t q:tn dim:i keepdim:b interpolation:s", "tm", size="own", cost="sort"
    )
    yield from _rows("renorm", "input:t p:n dim:i maxnorm:n", "tm")
    # Scans, sorting, searching.
    yield from _rows("cumsum cumprod", "input:t dim:i dtype:d", "tm_")
    yield from _rows("logcumsumexp", "input:t dim:i", "tm")
    yield from _rows("cummax cummin", "input:t dim:i", "tm", outputs=0, fields=("values", "indices"))
    yield from _rows("diff", "input:t n:i dim:i", "tm", size="reduce")
    yield from _rows(
        "sort", "input:t dim:i descending:b stable:b", "tm", outputs=0, fields=("values", "indices"), cost="sort"
    )
    yield from _rows("argsort", "input:t dim:i descending:b stable:b", "tm", cost="sort")
    yield from _rows("msort", "input:t", "tm", cost="sort")
    yield from _rows(
        "topk", "input:t k:i dim:i largest:b sorted:b", "tm", outputs=0, fields=("values", "indices"), cost="sort"
    )
    yield from _rows(
        "kthvalue", "input:t k:i dim:i keepdim:b", "tm", outputs=0, fields=("values", "indices"), cost="sort"
    )
    yield from _rows("searchsorted", "sorted_sequence:t input:tn right:b side:s", "t", size="total", cost="sort")
    yield from _rows("bucketize", "input:t boundaries:t right:b", "t", cost="sort")
    yield from _rows(
        "unique", "input:t sorted:b return_inverse:b return_counts:b dim:i", "tm", outputs=0, size="total", cost="sort"
    )
    yield from _rows(
        "unique_consecutive", "input:t return_inverse:b return_counts:b dim:i", "tm", outputs=0, size="total"
    )
    yield from _rows("nonzero", "input:t as_tuple:b", "tm", outputs=0, size="own")
    yield from _rows("argwhere", "input:t", "tm", size="own")
    yield from _rows("isin", "elements:t test_elements:t assume_unique:b invert:b", "t", size="total", cost="sort")
    yield from _rows("histc", "input:t bins:i min:n max:n", "tm", size="own")
    yield from _rows("bincount", "input:t weights:t minlength:i", "tm", size="own")
    # Shape: views, or copies where PyTorch copies.
    yield from _rows("view reshape", "input:t shape:ld+", "m", size="reduce")
    yield from _rows("view_as reshape_as expand_as", "input:t other:t", "m", size="reduce")
    yield from _rows("reshape", "input:t shape:l", "t", size="reduce")
    yield from _rows("flatten", "input:t start_dim:i end_dim:i", "tm", size="reduce")
    yield from _rows("ravel contiguous", "input:t", "m", size="reduce")
    yield from _rows("ravel", "input:t", "t", size="reduce")
    yield from _rows("unflatten", "input:t dim:i sizes:l", "tm", size="view")
    yield from _rows("squeeze", "input:t dim:l", "tm", size="view")
    yield from _rows("unsqueeze", "input:t dim:i", "tm", size="view")
    yield from _rows("transpose swapaxes swapdims", "input:t dim0:i dim1:i", "tm", size="view")
    yield from _rows("t adjoint", "input:t", "tm", size="view")
    yield from _rows("mT T", "input:t", "o", size="view")
    yield from _rows("permute", "input:t dims:l+", "tm", size="view")
    yield from _rows("movedim moveaxis", "input:t source:l destination:l", "tm", size="view")
    yield from _rows("expand", "input:t size:l+", "m", size="view")
    yield from _rows("broadcast_to", "input:t size:l", "tm", size="view")
    yield from _rows("narrow", "input:t dim:i start:i length:i", "tm", size="view")
    yield from _rows("select", "input:t dim:i index:i", "tm", size="view")
    yield from _rows("diagonal", "input:t offset:i dim1:i dim2:i", "tm", size="view")
    yield from _rows("unfold", "input:t dimension:i size:i step:i", "m", size="view")
    yield from _rows("detach", "input:t", "m", size="view", like=True)
    yield from _rows("unbind", "input:t dim:i", "tm", outputs=0, size="view")
    yield from _rows("split", "input:t split_size_or_sections:l dim:i", "tm", outputs=0, size="view")
    yield from _rows("chunk", "input:t chunks:i dim:i", "tm", outputs=0, size="view")
    yield from _rows("tensor_split", "input:t indices_or_sections:l dim:i", "tm", outputs=0, size="view")
    yield from _rows("hsplit vsplit", "input:t indices_or_sections:l", "tm", outputs=0, size="view")
    yield from _rows("broadcast_tensors", "tensors:t+", "t", outputs=0, size="view")
    yield from _rows("meshgrid", "tensors:t+ indexing:s", "t", outputs=0, size="view")
    yield from _rows("atleast_1d atleast_2d", "input:t", "t", size="view")
    yield from _rows("getitem", "input:t index:x", "o", size="own", indices="index")
    yield from _rows("setitem", "input:t index:x value:tn", "o", size="view", indices="index", writes=True)
    # Copies and joins.
    yield from _rows("clone", "input:t", "tm", like=True)
    yield from _rows("stack cat concat concatenate", "tensors:T dim:i", "t", size="total")
    yield from _rows("hstack vstack dstack row_stack column_stack", "tensors:T", "t", size="total")
    yield from _rows("block_diag", "tensors:t+", "t", size="own")
    yield from _rows("repeat", "input:t repeats:l+", "m", size="own")
    yield from _rows("tile", "input:t dims:l+", "tm", size="own")
    yield from _rows("repeat_interleave", "input:t repeats:ti dim:i", "tm", size="own")
    yield from _rows("flip", "input:t dims:l+", "tm")
    yield from _rows("fliplr flipud", "input:t", "tm")
    yield from _rows("rot90", "input:t k:i dims:l", "tm")
    yield from _rows("roll", "input:t shifts:l dims:l", "tm", size="own")
    yield from _rows("tril triu", "input:t diagonal:i", "tm_")
    yield from _rows("diag diag_embed diagflat", "input:t diagonal:i", "tm", size="own")
    yield from _rows("kron outer ger", "input:t other:t", "tm", size="own")
    yield from _rows("vander", "x:t N:i increasing:b", "t", size="own")
    yield from _rows("combinations", "input:t r:i with_replacement:b", "t", size="own")
    yield from _rows("trace", "input:t", "tm", size="reduce")
    yield from _rows("type_as", "input:t other:t", "m")
    yield from _rows("to", "input:t dtype:d copy:b", "o")
    yield from _rows("copy", "input:t src:t", "o", writes=True)
    # By index.
    yield from _rows("gather", "input:t dim:i index:t", "tm", size="own", indices="index")
    yield from _rows("take_along_dim", "input:t indices:t dim:i", "tm", size="own", indices="indices")
    yield from _rows("take", "input:t index:t", "tm", size="own", indices="index")
    yield from _rows("index_select", "input:t dim:i index:t", "tm", size="own", indices="index")
    yield from _rows("masked_select", "input:t mask:t", "tm", indices="")
    yield from _rows("masked_scatter", "input:t mask:t source:t", "tm_")
    yield from _rows("scatter", "input:t dim:i index:t src:tn reduce:s value:n", "tm_", indices="index")
    yield from _rows("scatter_add", "input:t dim:i index:t src:t", "tm_", indices="index")
    yield from _rows("scatter_reduce", "input:t dim:i index:t src:t reduce:s include_self:b", "tm_", indices="index")
    yield from _rows("index_add index_copy", "input:t dim:i index:t source:t alpha:n", "tm_", indices="index")
    yield from _rows("index_fill", "input:t dim:i index:t value:tn", "tm_", indices="index")
    # Linear algebra.
    yield from _rows("matmul mm bmm inner", "input:t other:t", "tm", size="own", cost="matmul")
    yield from _rows("dot vdot", "input:t other:t", "tm", size="reduce")
    yield from _rows("mv", "input:t vec:t", "tm", size="own", cost="matmul")
    yield from _rows("addmm", "input:t mat1:t mat2:t beta:n alpha:n", "tm_", size="own", cost="matmul")
    yield from _rows("addmv", "input:t mat:t vec:t beta:n alpha:n", "tm_", size="own", cost="matmul")
    yield from _rows("addr", "input:t vec1:t vec2:t beta:n alpha:n", "tm_", size="own")
    yield from _rows("baddbmm", "input:t batch1:t batch2:t beta:n alpha:n", "tm_", size="own", cost="matmul")
    yield from _rows("tensordot", "a:t b:t dims:il", "t", size="own", cost="einsum")
    yield from _rows("einsum", "equation:s operands:t+", "t", size="own", cost="einsum")
    yield from _rows("cdist", "x1:t x2:t p:n", "t", size="own", cost="matmul")
    yield from _rows("cross", "input:t other:t dim:i", "tml")
    yield from _rows("corrcoef", "input:t", "tm", size="own", cost="cubic")
    yield from _rows("cov", "input:t correction:i", "tm", size="own", cost="cubic")
    yield from _rows(
        "svd", "input:t some:b compute_uv:b", "tm", outputs=0, fields=("U", "S", "V"), size="own", cost="cubic"
    )
    yield from _rows(
        "svd", "A:t full_matrices:b driver:s", "l", outputs=0, fields=("U", "S", "Vh"), size="own", cost="cubic"
    )
    yield from _rows("svdvals", "A:t", "l", outputs=0, size="own", cost="cubic")
    yield from _rows("qr", "input:t some:b", "tm", outputs=0, fields=("Q", "R"), size="own", cost="cubic")
    yield from _rows("qr", "A:t mode:s", "l", outputs=0, fields=("Q", "R"), size="own", cost="cubic")
    yield from _rows(
        "eigh", "A:t UPLO:s", "l", outputs=0, fields=("eigenvalues", "eigenvectors"), size="own", cost="cubic"
    )
    yield from _rows("eigvalsh", "A:t UPLO:s", "l", outputs=0, size="own", cost="cubic")
    yield from _rows("cholesky", "A:t upper:b", "l", outputs=0, size="own", cost="cubic")
    yield from _rows("inv det", "A:t", "l", outputs=0, size="own", cost="cubic")
    yield from _rows("slogdet", "A:t", "l", outputs=0, fields=("sign", "logabsdet"), size="own", cost="cubic")
    yield from _rows("solve", "A:t B:t left:b", "l", outputs=0, size="own", cost="cubic")
    yield from _rows(
        "lstsq",
        "A:t B:t rcond:n driver:s",
        "l",
        outputs=0,
        fields=("solution", "residuals", "rank", "singular_values"),
        size="reduce",
        cost="cubic",
    )
    yield from _rows("pinv", "A:t atol:n rtol:n hermitian:b", "l", outputs=0, size="own", cost="cubic")
    yield from _rows("pinverse", "input:t rcond:n", "tm", outputs=0, size="own", cost="cubic")
    yield from _rows("inverse det logdet", "input:t", "tm", outputs=0, size="own", cost="cubic")
    yield from _rows("matrix_rank", "A:t atol:n rtol:n hermitian:b", "l", outputs=0, size="reduce", cost="cubic")
    yield from _rows("matrix_exp", "A:t", "tml", size="own", cost="cubic")
    yield from _rows("matrix_power", "A:t n:i", "tml", size="own", cost="cubic")
    yield from _rows("cond", "A:t p:ns", "l", outputs=0, size="reduce", cost="cubic")
    yield from _rows("norm", "A:t ord:ns dim:l keepdim:b dtype:d", "l", size="reduce", cost="cubic")
    yield from _rows("vector_norm", "x:t ord:n dim:l keepdim:b dtype:d", "l", size="reduce")
    yield from _rows("matrix_norm", "A:t ord:ns dim:l keepdim:b dtype:d", "l", size="reduce", cost="cubic")
    yield from _rows("multi_dot", "tensors:T", "l", size="own", cost="einsum")
    yield from _rows("matmul", "input:t other:t", "l", size="own", cost="matmul")
    yield from _rows("vecdot", "x:t y:t dim:i", "l", size="same")
    yield from _rows("diagonal", "A:t offset:i dim1:i dim2:i", "l", size="view")
    # Neural-network functions.
    yield from _rows("softmax log_softmax", "input:t dim:i dtype:d", "tmf")
    yield from _rows("softmin", "input:t dim:i dtype:d", "f")
    yield from _rows(
        "relu relu6 silu mish hardswish hardsigmoid tanh sigmoid softsign tanhshrink logsigmoid", "input:t", "f"
    )
    yield from _rows("gelu", "input:t approximate:s", "f")
    yield from _rows("elu celu", "input:t alpha:n", "f")
    yield from _rows("selu", "input:t", "f")
    yield from _rows("leaky_relu", "input:t negative_slope:n", "f")
    yield from _rows("softplus", "input:t beta:n threshold:n", "f")
    yield from _rows("hardshrink softshrink", "input:t lambd:n", "f")
    yield from _rows("hardtanh", "input:t min_val:n max_val:n", "f")
    yield from _rows("threshold", "input:t threshold:n value:n", "f")
    yield from _rows("normalize", "input:t p:n dim:l eps:n", "f")
    yield from _rows("layer_norm", "input:t normalized_shape:l weight:t bias:t eps:n", "f")
    yield from _rows("cosine_similarity", "x1:t x2:t dim:i eps:n", "tf")
    yield from _rows("pairwise_distance", "x1:t x2:t p:n eps:n keepdim:b", "f")
    yield from _rows("mse_loss l1_loss", "input:t target:t reduction:s", "f")
    yield from _rows("smooth_l1_loss", "input:t target:t reduction:s beta:n", "f", size="same")
    yield from _rows("kl_div", "input:t target:t reduction:s log_target:b", "f")
    yield from _rows("pad", "input:t pad:l mode:s value:n", "f", size="own")
    yield from _rows("one_hot", "tensor:t num_classes:i", "f", size="own")
    yield from _rows("linear", "input:t weight:t bias:t", "f", size="own", cost="matmul")
    yield from _rows("avg_pool1d max_pool1d", "input:t kernel_size:l stride:l padding:l", "f", size="own", cost="pool")
    # New tensors. Where PyTorch leaves memory as it was, these are zeros.
    yield from _rows("zeros ones empty", "size:l+ dtype:d", "t", size="own")
    yield from _rows("full", "size:l fill_value:n dtype:d", "t", size="own")
    yield from _rows("zeros_like ones_like empty_like", "input:t dtype:d", "t", like=True)
    yield from _rows("full_like", "input:t fill_value:n dtype:d", "t", like=True)
    yield from _rows("new_zeros new_ones new_empty", "input:t size:l+ dtype:d", "m", size="own")
    yield from _rows("new_full", "input:t size:l fill_value:n dtype:d", "m", size="own")
    yield from _rows("tensor", "data:Ln shape:l dtype:d", "o", size="own")
    yield from _rows("new_tensor", "input:t data:Ln shape:l dtype:d", "o", size="own")
    yield from _rows("arange", "start:n end:n step:n dtype:d", "t", size="own")
    yield from _rows("linspace logspace", "start:n end:n steps:i base:n dtype:d", "t", size="own")
    yield from _rows("eye", "n:i m:i dtype:d", "t", size="own")
    yield from _rows("tril_indices triu_indices", "row:i col:i offset:i", "t", size="own")
    yield from _rows("fill", "input:t value:tn", "t_")
    yield from _rows("zero", "input:t", "_")
    yield from _rows("fill_diagonal", "input:t fill_value:n wrap:b", "_")
    # Random numbers, from the run's own generators only.
    yield from _rows("rand randn", "size:l+ generator:g dtype:d", "t", size="own", random=True)
    yield from _rows("randint", "low:i high:i size:l generator:g dtype:d", "t", size="own", random=True)
    yield from _rows("randperm", "n:i generator:g dtype:d", "t", size="own", random=True)
    yield from _rows("rand_like randn_like", "input:t dtype:d generator:g", "t", random=True, like=True)
    yield from _rows("randint_like", "input:t low:i high:i dtype:d", "t", random=True)
    yield from _rows("normal", "mean:tn std:tn size:l generator:g", "t", size="own", random=True)
    yield from _rows("bernoulli", "input:t p:n generator:g", "tm", random=True)
    yield from _rows("multinomial", "input:t num_samples:i replacement:b generator:g", "tm", size="own", random=True)
    yield from _rows("bernoulli", "input:t p:tn generator:g", "_", random=True)
    yield from _rows("uniform", "input:t low:n high:n generator:g", "_", random=True)
    yield from _rows("normal", "input:t mean:n std:n generator:g", "_", random=True)
    yield from _rows("exponential", "input:t lambd:n generator:g", "_", random=True)
    yield from _rows("dropout", "input:t p:n training:b", "f", random=True)
    yield from _rows("seed_generator", "generator:g seed:i", "o", size="view", outputs=0)


OPS: tuple[Op, ...] = tuple(_table())
NUMBER: dict[tuple[str, str], int] = {(form, op.name): n for n, op in enumerate(OPS) for form in op.forms}


def number(form: str, name: str) -> int:
    """The row number of `name` found by `form`, as sent in `protocol.Call.op`."""
    return NUMBER[form, name]
