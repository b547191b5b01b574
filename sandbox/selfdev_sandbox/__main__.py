"""Command line: `python -m selfdev_sandbox check DIR | run FILE ... | doctor`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from selfdev_sandbox.contract import Limits, SandboxError

CHECK_SECONDS = 3.0
CHECK_LIVE = 1 << 30
FAILED, USAGE = 1, 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m selfdev_sandbox", description="Run untrusted tensor programs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="run a corpus of hostile programs and honest ones, and judge the sandbox")
    check.add_argument("dir", type=Path, help="DIR/*.py: hostile; DIR/valid/*.py: honest and trusted, run plainly too")
    run = commands.add_parser("run", help="run one program on task vectors")
    run.add_argument("file", type=Path, help="Python text that defines merge_models(task_vectors)")
    run.add_argument("--tensors", type=Path, nargs="+", required=True, metavar="FILE", help="task vectors, safetensors")
    run.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the result goes, safetensors")
    run.add_argument("--entry", default="merge_models", metavar="NAME", help="name of the function (merge_models)")
    run.add_argument("--seed", type=int, default=0, help="seeds every random draw (0)")
    run.add_argument("--seconds", type=float, default=60.0, help="time limit (60)")
    run.add_argument("--device", default="cpu", help="where the operations run (cpu)")
    run.add_argument("--verify", action="store_true", help="run an accepted program twice and compare the bits")
    commands.add_parser("doctor", help="show the protective layers and limits in force")
    for command in (check, run):
        command.add_argument(
            "--allow-missing", nargs="+", default=[], metavar="LAYER", help="layers that may be missing; os: all"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done, 1 a program or check failed, 2 the call is wrong or the sandbox cannot start.
    """
    options = _parser().parse_args(arguments)
    try:
        return {"check": _check, "run": _run, "doctor": _doctor}[options.command](options)
    except SandboxError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USAGE


def _check(options: argparse.Namespace) -> int:
    import torch

    from selfdev_sandbox import Sandbox, corpus

    torch.set_num_threads(1)  # the same sums in both, whatever the shape
    corpus.programs(options.dir)  # complain before the start
    limits = Limits(seconds=CHECK_SECONDS, live_bytes=CHECK_LIVE)
    failed = passed = 0
    with Sandbox(limits, allow_missing=frozenset(options.allow_missing)) as box:
        for verdict in corpus.check(box, options.dir):
            print(verdict, flush=True)
            failed, passed = failed + bool(verdict.broken), passed + (not verdict.broken)
    print(f"{passed} passed, {failed} failed")
    return FAILED if failed else 0


def _run(options: argparse.Namespace) -> int:
    import safetensors.torch
    from safetensors import SafetensorError

    from selfdev_sandbox import Sandbox

    source = _read(options.file)
    try:
        limits = Limits(seconds=options.seconds)
        vectors = [safetensors.torch.load_file(path, device=options.device) for path in options.tensors]
        with Sandbox(limits, options.device, frozenset(options.allow_missing)) as box:
            outcome = box.run(source, vectors, options.seed, options.entry, verify=options.verify)
    except SafetensorError as error:
        return _complain(f"not a safetensors file: {error}")
    except (RuntimeError, ValueError, AssertionError) as error:  # an absent device, a limit that is not positive
        return _complain(str(error).splitlines()[0])
    if outcome.result is None:
        place = f" (line {outcome.line})" if outcome.line else ""
        print(f"{outcome.status}{place}: {outcome.error}", file=sys.stderr)
        return FAILED
    safetensors.torch.save_file(outcome.result, options.out)
    print(
        f"ok: {outcome.operations} operations, {outcome.round_trips} round trips, {outcome.seconds:.3f} s, "
        f"peak {outcome.peak_bytes / 2**20:.1f} MiB; wrote {options.out}"
    )
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SandboxError(f"{path} is not UTF-8 text") from None


def _doctor(_options: argparse.Namespace) -> int:
    import torch

    from selfdev_sandbox import Sandbox
    from selfdev_sandbox.selftest import LAYERS

    print(
        f"system    {platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"
    )
    print(f"torch     {torch.__version__}")
    with Sandbox(allow_missing=frozenset({"os"})) as box:
        for layer in LAYERS:
            print(f"{layer:<13} {'holds' if layer in box.layers else 'MISSING'}")
        print("language      holds")
        print(f"level         {box.level}")
        for field in fields(box.limits):
            value = getattr(box.limits, field.name)
            print(f"limit         {field.name} = {'in proportion to the inputs' if value is None else value}")
        return 0 if box.level == "full" else FAILED


if __name__ == "__main__":
    sys.exit(main())
