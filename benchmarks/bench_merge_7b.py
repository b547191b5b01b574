"""Merges of 7-billion-parameter models on a CPU: seconds and peak memory of `selfdev apply`, beside what it planned.

    python benchmarks/bench_merge_7b.py --folder DIR [--methods task_arithmetic ties] [--threads 1] [--layers 32]

A seed of Llama-2-7B's layers with the vocabulary of SmolLM2, in bfloat16 with random weights, and three sources a small
step away from it, on disk. To save room the third source consists of files of the first two in turn. DIR needs 56 GB;
the models stay there for the next time, the merged model is removed. Every merge is checked on some values of each
shard against the formula, worked out in float32 from the files; TIES by its sign, and by the share that moved.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "sandbox")]

import bench_merge  # noqa: E402
import record  # noqa: E402

LIMIT_GIB = 24
PART = 1 << 24  # elements written at once
CHECKED = 4096  # leading values of a parameter


def make_models(folder: Path, layers: int) -> list[Path]:
    """Seed and sources in a folder; those that are there already are kept."""
    from transformers import LlamaConfig

    from selfdev.apply.checkpoint import ShardWriter
    from selfdev.models import groups_of, local_directory

    tokenizer = local_directory("smollm2")
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=32, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    shapes = {name: tuple(shape) for name, (shape, _) in groups_of(config).items()}
    layout = {name: ("BF16", shape, 2 * torch.Size(shape).numel()) for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    around, step = (scale * torch.randn(PART, generator=generator) for scale in (0.02, 0.001))
    paths = [folder / name for name in ("seed", "source-0", "source-1", "source-2")]
    for number, path in enumerate(paths[:3]):
        if (path / "config.json").exists():
            continue
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        writer = ShardWriter(path, layout, 10**9)
        for place, (name, shape) in enumerate(shapes.items()):
            for start in range(0, torch.Size(shape).numel(), PART):
                size = min(PART, torch.Size(shape).numel() - start)
                values = around.roll(place + start)[:size]  # other values in each part and tensor
                if number:
                    values = values + step.roll(7919 * number + place + start)[:size]
                writer.put(name, start, values)
        writer.close()
        _describe(tokenizer, config, path)
    if not (paths[3] / "config.json").exists():
        shutil.rmtree(paths[3], ignore_errors=True)
        paths[3].mkdir()
        for place, file in enumerate(sorted(paths[1].glob("*.safetensors"))):
            os.link(paths[1 + place % 2] / file.name, paths[3] / file.name)
        shutil.copyfile(paths[1] / "model.safetensors.index.json", paths[3] / "model.safetensors.index.json")
        _describe(tokenizer, config, paths[3])
    return paths


def _describe(tokenizer: Path, config: Any, path: Path) -> None:
    for file in tokenizer.iterdir():
        if file.is_file() and "safetensors" not in file.name and file.name != "config.json":
            shutil.copyfile(file, path / file.name)
    config.save_pretrained(path)


def check(method: str, models: list[Path], out: Path) -> dict[str, Any]:
    """Compare the head of a parameter in each shard with the formula; raises where a merge is wrong."""
    from safetensors import safe_open

    chosen = {file: name for name, file in _files(models[0]).items()}  # the last parameter of each file
    moved = []
    for name in chosen.values():
        seed, *sources, merged = (_head(safe_open, path, name) for path in (*models, out))
        deltas = torch.stack([source - seed for source in sources])
        if method == "task_arithmetic":
            expected = (seed + 0.4 * deltas.sum(dim=0)).bfloat16().float()
            close = (merged - expected).abs() <= 2.0**-7 * expected.abs()  # one step of bfloat16
            if not bool(close.all()):
                raise SystemExit(f"{name}: {int((~close).sum())} of {close.numel()} values are not seed + 0.4 * sum")
        else:
            step = merged - seed
            signs = torch.stack([(delta.sign() == step.sign()) for delta in deltas]).any(dim=0)
            if not bool((signs | (step == 0)).all()):
                raise SystemExit(f"{name}: a value moved in a direction that no source has")
            moved.append(float((step != 0).float().mean()))
    return {"parameters_checked": len(chosen), **({"share_moved": round(sum(moved) / len(moved), 3)} if moved else {})}


def _head(safe_open: Any, path: Path, name: str) -> torch.Tensor:
    with safe_open(path / _files(path)[name], "pt") as file:
        part = file.get_slice(name)
        rows: torch.Tensor = part[:1] if len(part.get_shape()) > 1 else part[:]
        return rows.reshape(-1)[:CHECKED].float()


def _files(path: Path) -> dict[str, str]:
    """Parameter -> file."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return dict.fromkeys(_files(path.parent / "seed"), "model.safetensors")
    found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return found


def measure(method: str, models: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    from selfdev.apply.merge import Merge, Request

    request = Request(bench_merge.rule(method), str(models[0]), tuple(map(str, models[1:])))
    with Merge(request) as merge:
        planned = {"way": merge.plan.way, "planned_gib": round(merge.plan.peak_bytes / bench_merge.GIB, 2)}
        elements = merge.plan.elements
    out = options.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = bench_merge.command_for("selfdev", method, models, options, options.folder)
    seconds, peak = bench_merge.whole_command(command, options, options.folder / "log")
    checked = check(method, models, out)
    shutil.rmtree(out)
    return {
        **planned,
        "parameters": elements,
        "seconds": round(seconds, 1),
        "peak_gib": round(peak / bench_merge.GIB, 2),
        "gb_per_second": round((len(models) + 1) * 2 * elements / seconds / 1e9, 2),
        **checked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the models are and the merged one goes")
    parser.add_argument(
        "--methods", nargs="+", default=["task_arithmetic", "ties"], choices=["task_arithmetic", "ties"]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=32, help="fewer: a smaller model, to try the benchmark")
    parser.add_argument("--no-record", action="store_true", help="print the results, write no file")
    options = parser.parse_args()
    models = make_models(options.folder, options.layers)
    results: dict[str, Any] = {
        "threads": options.threads,
        "layers": options.layers,
        "limit_gib": LIMIT_GIB,
        "methods": {},
    }
    for method in options.methods:
        results["methods"][method] = measure(method, models, options)
        print(method, json.dumps(results["methods"][method]), flush=True)
    print(json.dumps(results, indent=2) if options.no_record else record.write("bench_merge_7b", results))


if __name__ == "__main__":
    main()
