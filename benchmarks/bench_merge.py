"""Seconds and peak memory of merges, ours against mergekit 0.1.5: from memory to memory and from files to files.

    python benchmarks/bench_merge.py [--seed-model smollm2] [--threads 1] [--repeats 3] [--methods ties della]

A seed and three noisy copies of it. In memory: `merge_in_memory` against `merge_state_dicts`, and the bandwidth of each
(sources read once, and the seed where it counts; the result written once) as a share of what copying the same memory
reaches in that process.
Files: `selfdev apply` against `mergekit-yaml`, whole commands. Each measurement runs in a process of its own, whose
peak is its largest resident memory; tools alternate. Random methods draw other numbers in the two tools; for the rest
the share of values that differ is given. Without mergekit only ours is measured. The first of our merges in memory
also finds out whether the rule is linear (`first_seconds`). Fresh memory for a result costs its own time; linear rules
are measured into memory at hand too, which is what the copy limit is measured with.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "sandbox")]

import record  # noqa: E402

SOURCES = 3
GIB = 2**30
COPIED = 1 << 26  # elements of float32
DIFFERENT = 1e-4  # of the largest step away from the seed

# name -> (file of selfdev.baselines, its constants, method of mergekit, parameters of every source)
METHODS: dict[str, tuple[str, dict[str, Any], str, dict[str, float]]] = {
    "task_arithmetic": ("task_arithmetic", {"WEIGHTS": (0.4, 0.4, 0.4)}, "task_arithmetic", {"weight": 0.4}),
    "average": ("uniform_average", {}, "linear", {"weight": 1.0}),
    "ties": ("ties", {"TRIM": "tensor", "DENSITY": 0.2}, "ties", {"weight": 1.0, "density": 0.2}),
    "dare_linear": ("dare_linear", {}, "dare_linear", {"weight": 0.5, "density": 0.5}),
    "della": ("della", {"DENSITY": 0.6, "EPSILON": 0.1}, "della", {"weight": 1.0, "density": 0.6, "epsilon": 0.1}),
    "breadcrumbs": (
        "breadcrumbs",
        {"DENSITY": 0.9, "GAMMA": 0.01, "SCALE": 0.5},
        "breadcrumbs",
        {"weight": 0.5, "density": 0.9, "gamma": 0.01},
    ),
    "model_stock": ("model_stock", {}, "model_stock", {}),
}
LINEAR = ("task_arithmetic", "average")
WITHOUT_SEED = ("average",)  # the result is the same whatever the seed: no tool needs to read it
RANDOM = ("dare_linear", "della")
AIMS = {"task_arithmetic": 3, "average": 3, "ties": 5, "della": 5, "breadcrumbs": 5}


def rule(method: str) -> str:
    """The program of one of our baselines."""
    from selfdev.baselines import read_rule

    file, constants, _, _ = METHODS[method]
    return read_rule(file, **constants)


def make_family(seed_model: str, root: Path) -> list[Path]:
    """The seed as a directory, and copies of it with a tenth of each tensor's size as noise."""
    from safetensors.torch import load_file, save_file

    from selfdev.models import local_directory

    seed = local_directory(seed_model)
    weights = {}
    for file in sorted(seed.glob("*.safetensors")):
        weights |= load_file(file)
    folders = [seed]
    for number in range(SOURCES):
        folder = root / f"source-{number}"
        folder.mkdir()
        for file in seed.iterdir():
            if file.is_file() and "safetensors" not in file.name:
                shutil.copyfile(file, folder / file.name)
        generator = torch.Generator().manual_seed(number)
        noisy = {
            name: tensor + 0.1 * tensor.float().std(correction=0) * torch.randn(tensor.shape, generator=generator)
            for name, tensor in weights.items()
        }
        save_file({n: t.to(weights[n].dtype) for n, t in noisy.items()}, folder / "model.safetensors", {"format": "pt"})
        folders.append(folder)
    return folders


def copy_limit() -> float:
    """Bytes per second, read and written, of copying memory: the best of several."""
    source, target = torch.ones(COPIED), torch.zeros(COPIED)
    best = min(timed(lambda: target.copy_(source)) for _ in range(7))
    return 2 * 4 * COPIED / best


def timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def work(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement in memory, in this process."""
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(task["threads"])
    seed, *sources = (
        {n: t.clone() for n, t in load_file(Path(f) / "model.safetensors").items()} for f in task["models"]
    )
    size = sum(tensor.nbytes for tensor in seed.values())
    limit = copy_limit()
    loaded = peak()
    made: dict[str, torch.Tensor] = {}
    extra: dict[str, Any] = {}
    if task["tool"] == "selfdev":
        from selfdev.apply.merge import merge_in_memory, open_sandbox

        text = rule(task["method"])
        with open_sandbox(()) as box:
            extra["first_seconds"] = round(timed(lambda: made.update(merge_in_memory(text, seed, sources, box=box))), 3)
            seconds = repeated(made, lambda: merge_in_memory(text, seed, sources, box=box), task["repeats"])
            largest = peak()
            if task["method"] in LINEAR:
                into = {name: torch.zeros_like(tensor) for name, tensor in seed.items()}
                again = [timed(lambda: merge_in_memory(text, seed, sources, box=box, out=into)) for _ in seconds]
                extra["into_memory_at_hand"] = bandwidth(task["method"], size, min(again), limit)
    else:
        from mergekit.merge_methods import merge_state_dicts

        _, _, method, given = METHODS[task["method"]]
        names = [f"source {i}" for i in range(SOURCES)]
        parameters: dict[str, Any] = {key: [value] * SOURCES for key, value in given.items()}
        models = dict(zip(names, sources, strict=True))
        base = None
        if method != "linear":
            models, base = {"seed": seed} | models, "seed"
        call = {"method": method, "parameters": parameters, "base": base}
        with torch.no_grad():
            seconds = repeated(made, lambda: merge_state_dicts(models, **call), task["repeats"])
        largest = peak()
    if task["out"]:
        save_file({name: tensor.contiguous() for name, tensor in made.items()}, task["out"])
    return {
        "seconds": {"median": round(statistics.median(seconds), 3), "min": round(min(seconds), 3), "n": len(seconds)},
        "peak_gib": round(largest / GIB, 2),
        "models_gib": round(loaded / GIB, 2),
        "copy_gb_s": round(limit / 1e9, 2),
        **bandwidth(task["method"], size, min(seconds), limit),
        **extra,
    }


def repeated(made: dict[str, torch.Tensor], call: Any, times: int) -> list[float]:
    """Seconds of each call; the last result is kept."""
    seconds = []
    for _ in range(times):
        made.clear()
        seconds.append(timed(lambda: made.update(call())))
    return seconds


def bandwidth(method: str, size: int, seconds: float, limit: float) -> dict[str, float]:
    """Of reading what the method needs of seed and sources and writing a result, of `size` bytes each."""
    moved = (SOURCES + 2 - (method in WITHOUT_SEED)) * size / seconds
    return {"bandwidth_gb_s": round(moved / 1e9, 2), "share_of_copy": round(moved / limit, 3)}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_memory(tool: str, method: str, models: list[Path], options: argparse.Namespace, out: Path) -> dict[str, Any]:
    task = {
        "tool": tool,
        "method": method,
        "models": list(map(str, models)),
        "threads": options.threads,
        "repeats": options.repeats,
        "out": str(out),
    }
    command = [sys.executable, "-W", "ignore", __file__, "--worker", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(options))
    if done.returncode:
        raise SystemExit(f"{tool} {method} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def with_files(tool: str, method: str, models: list[Path], options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Whole commands: seconds and their largest resident memory."""
    out = root / "out"
    seconds, peaks = [], []
    for _ in range(options.repeats):
        shutil.rmtree(out, ignore_errors=True)
        took, largest = whole_command(command_for(tool, method, models, options, root), options, root / "log")
        seconds.append(took)
        peaks.append(largest)
    shutil.rmtree(out, ignore_errors=True)
    return {
        "seconds": {"median": round(statistics.median(seconds), 2), "min": round(min(seconds), 2), "n": len(seconds)},
        "peak_gib": round(max(peaks) / GIB, 2),
    }


def command_for(tool: str, method: str, models: list[Path], options: argparse.Namespace, root: Path) -> list[str]:
    """A merge into root/out."""
    out = str(root / "out")
    if tool == "selfdev":
        algorithm = root / f"{method}.py"
        algorithm.write_text(rule(method), encoding="utf-8")
        given = ["--seed-model", str(models[0]), "--sources", *map(str, models[1:]), "--out", out]
        rest = ["--threads", str(options.threads), "--no-smoke"]
        return [sys.executable, "-m", "selfdev", "apply", str(algorithm), *given, *rest]
    config = root / f"{method}.yml"
    config.write_text(recipe(method, models), encoding="utf-8")
    return [sys.executable, "-W", "ignore", "-m", "mergekit.scripts.run_yaml", str(config), out, "--quiet"]


# A process starts with its parent's peak memory as its own: the command is started by a small one.
LAUNCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[2:], stdout=open(sys.argv[1], "wb"), stderr=subprocess.STDOUT).returncode
seconds = time.perf_counter() - started
print(json.dumps([code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


def whole_command(command: list[str], options: argparse.Namespace, log: Path) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a command that must succeed."""
    launch = [sys.executable, "-S", "-c", LAUNCH, str(log), *command]
    done = subprocess.run(launch, env=environment(options), cwd=HERE.parent, check=True, stdout=subprocess.PIPE)
    code, seconds, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command[2:5])} ... failed:\n{log.read_text(errors='replace')[-2000:]}")
    return float(seconds), int(peak)


def recipe(method: str, models: list[Path]) -> str:
    _, _, name, given = METHODS[method]
    told: dict[str, Any] = {"merge_method": name, "dtype": "float32"}
    told["models"] = [{"model": str(m), "parameters": given} if given else {"model": str(m)} for m in models[1:]]
    if name != "linear":
        told["base_model"] = str(models[0])
    return json.dumps(told)  # JSON is YAML


def environment(options: argparse.Namespace) -> dict[str, str]:
    threads = str(options.threads)
    return os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}


def difference(ours: Path, theirs: Path, seed: Path) -> float:
    """Share of the values that differ by more than a ten-thousandth of the largest step away from the seed."""
    from safetensors.torch import load_file

    a, b, base = load_file(ours), load_file(theirs), load_file(seed / "model.safetensors")
    step = max(float((a[name].float() - base[name].float()).abs().max()) for name in a)
    differ = sum(int(((a[name].float() - b[name].float()).abs() > DIFFERENT * step).sum()) for name in a)
    return differ / sum(tensor.numel() for tensor in a.values())


def measure(
    method: str, tools: list[str], models: list[Path], options: argparse.Namespace, root: Path
) -> dict[str, Any]:
    outs = {tool: root / f"{tool}.safetensors" for tool in tools}
    found: dict[str, Any] = {"memory": {}, "files": {}}
    for tool in tools:
        found["memory"][tool] = in_memory(tool, method, models, options, outs[tool])
        found["files"][tool] = with_files(tool, method, models, options, root)
    if len(tools) == 2:
        for kind in ("memory", "files"):
            ours, theirs = (found[kind][tool]["seconds"]["median"] for tool in tools)
            found[kind]["times_faster"] = round(theirs / ours, 2)
        if method not in RANDOM:
            found["share_that_differs"] = round(difference(outs["selfdev"], outs["mergekit"], models[0]), 6)
    for out in outs.values():
        out.unlink(missing_ok=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed-model", default="smollm2", help="any model in one file of weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--no-record", action="store_true", help="print the results, write no file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    tools = ["selfdev", *(["mergekit"] if importlib.util.find_spec("mergekit") else [])]
    results: dict[str, Any] = {
        "seed_model": options.seed_model,
        "sources": SOURCES,
        "threads": options.threads,
        "load_at_start": round(os.getloadavg()[0], 2),
        "mergekit": metadata.version("mergekit") if len(tools) == 2 else None,
        "aims": {"linear_share_of_copy": 0.5, "times_faster_than_merge_state_dicts": AIMS},
        "methods": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models = make_family(options.seed_model, root)
        for method in options.methods:
            results["methods"][method] = measure(method, tools, models, options, root)
            print(method, json.dumps(results["methods"][method]), flush=True)
    results["load_at_end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(results, indent=2) if options.no_record else record.write("bench_merge", results))


if __name__ == "__main__":
    main()
