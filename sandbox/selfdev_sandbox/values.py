"""What a program handles besides tensors: dtypes, devices, shapes, generators, named results. Plain Python."""

from __future__ import annotations

from typing import Any

from selfdev_sandbox.allowlist import NUMBER, OPS
from selfdev_sandbox.contract import printable
from selfdev_sandbox.guards import Missing, register
from selfdev_sandbox.protocol import Gen
from selfdev_sandbox.wire import CONNECTION


class DType:
    """A dtype: one object per name."""

    __slots__ = ("is_complex", "is_floating_point", "itemsize", "name")

    def __init__(self, name: str, itemsize: int, floating: bool) -> None:
        self.name, self.itemsize, self.is_floating_point, self.is_complex = name, itemsize, floating, False

    def __repr__(self) -> str:
        return f"torch.{self.name}"


_SIZES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
DTYPES = {name: DType(name, size, "float" in name) for name, size in _SIZES.items()}
DTYPE_ALIASES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
PYTHON_DTYPES = {float: "float64", int: "int64", bool: "bool"}


def as_dtype(value: Any) -> DType | None:
    """A dtype argument: ours, or Python's float, int, bool."""
    if type(value) is DType:
        return value
    return DTYPES[PYTHON_DTYPES[value]] if type(value) is type and value in PYTHON_DTYPES else None


class Device:
    """A device: names only, everything lives where the server is."""

    __slots__ = ("index", "type")

    def __init__(self, text: Any = "cpu", index: int | None = None) -> None:
        name, _, number = str(text).partition(":")
        if name not in ("cpu", "cuda", "mps", "meta"):
            raise RuntimeError(
                f"Expected one of cpu, cuda device type at start of device string: {printable(name, 40)}"
            )
        self.type, self.index = name, int(number) if number.isdigit() else index

    def __repr__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


DEVICE = [Device("cpu")]  # the device that tensors report


class Size(tuple[int, ...]):
    """A shape."""

    __slots__ = ()

    def numel(self) -> int:
        total = 1
        for size in self:
            total *= size
        return total

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"


class Generator:
    """A random generator of the server, derived from the run's seed until `manual_seed`."""

    __slots__ = ("gen", "start")
    count = 0

    def __init__(self, device: Any = None, number: int | None = None) -> None:
        if number is None:
            Generator.count += 1
            number = Generator.count
        self.gen, self.start = Gen(number), 0

    def manual_seed(self, seed: int) -> Generator:
        """Seed it; the same seed gives the same numbers as in PyTorch."""
        self.start = int(seed) & ((1 << 63) - 1)
        CONNECTION.call(NUMBER["o", "seed_generator"], 0, [self.gen, self.start], {})
        return self

    def initial_seed(self) -> int:
        return self.start

    def seed(self) -> int:
        """PyTorch takes entropy here; this gives a fixed seed."""
        return self.manual_seed(self.gen.i).start

    device = property(lambda self: DEVICE[0])


class Named(tuple[Any, ...]):
    """Several results with names."""

    fields: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self[self.fields.index(name)]
        raise Missing(f"{name} is not available here")


register(Size, "numel count index")
register(DType, "is_floating_point itemsize is_complex")
register(Device, "type index")
register(Generator, "manual_seed initial_seed seed device")
register(Named, "count index " + " ".join(f for op in OPS for f in op.fields))
