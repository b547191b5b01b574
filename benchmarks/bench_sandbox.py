"""What the sandbox costs: per operation, per round trip, per program, per model size, and how fast it kills.

    python benchmarks/bench_sandbox.py [--repeats 7] [--skip-large]

Plain PyTorch runs the same function in the same process, alternating with the sandbox, so that ratios hold on a busy
machine too. Every figure comes with its smallest and largest value. One thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "sandbox")]

import record  # noqa: E402
from selfdev_sandbox import Limits, Sandbox, Status  # noqa: E402

Vectors = list[dict[str, torch.Tensor]]

TASK_ARITHMETIC = """
import torch

def merge_models(task_vectors):
    weights = [0.4, 0.35, 0.25]
    merged = {}
    for name in task_vectors[0]:
        merged[name] = sum(w * tv[name] for w, tv in zip(weights, task_vectors))
    return merged
"""
TIES = """
import torch

def merge_models(task_vectors, density=0.3, scale=0.7):
    merged = {}
    for name, reference in task_vectors[0].items():
        trimmed = []
        for tv in task_vectors:
            magnitude = tv[name].abs().flatten()
            cut = magnitude.kthvalue(max(1, int((1 - density) * magnitude.numel()))).values
            trimmed.append(torch.where(tv[name].abs() >= cut, tv[name], 0.0))
        stacked = torch.stack(trimmed)
        sign = torch.sign(stacked.sum(dim=0))
        agree = torch.sign(stacked) == sign
        total = torch.where(agree, stacked, 0.0).sum(dim=0)
        merged[name] = scale * total / agree.sum(dim=0).clamp(min=1)
    return merged
"""
OPERATIONS = 2000
ASYNCHRONOUS = f"""
def merge_models(task_vectors):
    x = task_vectors[0]["w"]
    for _ in range({OPERATIONS}):
        x = x * 1.0
    return {{"w": x}}
"""
ROUND_TRIPS = f"""
def merge_models(task_vectors):
    x = task_vectors[0]["w"].sum()
    total = 0.0
    for _ in range({OPERATIONS}):
        total += x.item()
    return task_vectors[0]
"""
NOTHING = "def merge_models(task_vectors):\n    return task_vectors[0]\n"
SPIN = "def merge_models(task_vectors):\n    while True:\n        pass\n"


def smollm2_shapes() -> dict[str, tuple[int, ...]]:
    """Parameters of SmolLM2-135M (30 layers, tied embeddings): 272 tensors, 134.5M values."""
    hidden, inner, values = 576, 1536, 192
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (49152, hidden)}
    for layer in range(30):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.self_attn.q_proj.weight": (hidden, hidden),
            f"{block}.self_attn.k_proj.weight": (values, hidden),
            f"{block}.self_attn.v_proj.weight": (values, hidden),
            f"{block}.self_attn.o_proj.weight": (hidden, hidden),
            f"{block}.mlp.gate_proj.weight": (inner, hidden),
            f"{block}.mlp.up_proj.weight": (inner, hidden),
            f"{block}.mlp.down_proj.weight": (hidden, inner),
            f"{block}.input_layernorm.weight": (hidden,),
            f"{block}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def zoo_shapes() -> dict[str, tuple[int, ...]]:
    """Parameters of the shipped zoo's solver."""
    from safetensors import safe_open

    path = HERE.parent / "selfdev" / "zoo" / "models" / "solver-seed" / "model.safetensors"
    if not path.is_file():
        raise SystemExit("the zoo is not built; run 'selfdev zoo build'")
    with safe_open(path, "pt") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def random_vectors(shapes: dict[str, tuple[int, ...]], sources: int = 3) -> Vectors:
    generator = torch.Generator().manual_seed(0)
    return [{n: 0.02 * torch.randn(s, generator=generator) for n, s in shapes.items()} for _ in range(sources)]


def spread(values: list[float], scale: float, digits: int = 4) -> dict[str, Any]:
    """Median, smallest, largest, number."""
    scaled = [round(v * scale, digits) for v in values]
    return {"median": statistics.median(scaled), "min": min(scaled), "max": max(scaled), "n": len(scaled)}


def timed(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    call()
    return clock() - started


def plain(source: str) -> Callable[[Vectors], Any]:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    function: Callable[[Vectors], Any] = namespace["merge_models"]
    return function


def sandboxed(box: Sandbox, source: str, vectors: Vectors) -> Callable[[], None]:
    def call() -> None:
        outcome = box.run(source, vectors, seed=0)
        if outcome.status is not Status.OK:
            raise SystemExit(f"a benchmark program ended as {outcome.status}: {outcome.error}")

    return call


def per_operation(box: Sandbox, source: str, repeats: int) -> dict[str, Any]:
    """Microseconds per operation: a program of many of them, less a program of none."""
    vectors = [{"w": torch.ones(4)}]
    many, none = sandboxed(box, source, vectors), sandboxed(box, NOTHING, vectors)
    many()
    pairs = [(timed(many), timed(none)) for _ in range(repeats)]
    return spread([(a - b) / OPERATIONS for a, b in pairs], 1e6, 1)


def against_plain(box: Sandbox, source: str, vectors: Vectors, repeats: int) -> dict[str, Any]:
    """Milliseconds in the sandbox and in plain PyTorch, alternating, and the ratio of each pair."""
    function = plain(source)
    run = sandboxed(box, source, vectors)
    pairs = []
    with torch.no_grad():
        run()
        function(vectors)
        for _ in range(repeats):
            pairs.append((timed(run), timed(lambda: function(vectors))))
    ours, theirs = [p[0] for p in pairs], [p[1] for p in pairs]
    ratios = [a / b for a, b in pairs]
    return {
        "sandbox_ms": spread(ours, 1e3, 2),
        "plain_ms": spread(theirs, 1e3, 2),
        "ratio": spread(ratios, 1, 3),
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(theirs), 3),
    }


def kill_delay(repeats: int) -> dict[str, Any]:
    """Milliseconds from the deadline to the answer, the child being gone."""
    limit = 0.2
    with Sandbox(Limits(seconds=limit)) as box:
        vectors = [{"w": torch.ones(4)}]
        delays = [timed(lambda: box.run(SPIN, vectors, seed=0)) - limit for _ in range(repeats)]
    return spread(delays, 1e3, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--skip-large", action="store_true", help="leave out the SmolLM2-135M size (6 GB of memory)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"threads": 1, "load_at_start": round(os.getloadavg()[0], 2)}
    repeats = options.repeats
    results["start_ms"] = spread([timed(lambda: Sandbox().__enter__().close()) for _ in range(3)], 1e3, 1)
    with Sandbox(Limits(seconds=600, operations=100_000)) as box:
        results["level"] = box.level
        results["asynchronous_operation_us"] = per_operation(box, ASYNCHRONOUS, repeats)
        results["round_trip_us"] = per_operation(box, ROUND_TRIPS, repeats)
        vectors = random_vectors(zoo_shapes())
        results["zoo_task_arithmetic"] = against_plain(box, TASK_ARITHMETIC, vectors, 5 * repeats)
        results["zoo_ties"] = against_plain(box, TIES, vectors, repeats)
        results["zoo_candidates_per_second"] = round(1e3 / results["zoo_task_arithmetic"]["sandbox_ms"]["median"], 1)
        if not options.skip_large:
            vectors = random_vectors(smollm2_shapes())
            results["smollm2_135m_task_arithmetic"] = against_plain(box, TASK_ARITHMETIC, vectors, repeats)
            results["smollm2_135m_ties"] = against_plain(box, TIES, vectors, max(3, repeats // 2))
    results["kill_after_deadline_ms"] = kill_delay(repeats)
    results["load_at_end"] = round(os.getloadavg()[0], 2)
    for name, value in results.items():
        print(f"{name}: {value}")
    print(f"wrote {record.write('bench_sandbox', results)}")


if __name__ == "__main__":
    main()
