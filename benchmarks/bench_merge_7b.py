"""Merges of 7-billion-parameter models on a CPU: seconds and peak memory of `selfdev apply`, beside what it planned.

    python benchmarks/bench_merge_7b.py --folder DIR [--methods task_arithmetic ties] [--threads 1] [--layers 32]

A seed of Llama-2-7B's layers with the vocabulary of SmolLM2, in bfloat16 with random weights, and three sources a small
step away from it, on disk. To save room the third source consists of files of the first two in turn. DIR needs 56 GB;
the models stay there for the next time, the merged model is removed. Of every merge one whole parameter of each file is
compared with the formula, worked out from the files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
INDEX = "model.safetensors.index.json"


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
        shutil.copyfile(paths[1] / INDEX, paths[3] / INDEX)
        _describe(tokenizer, config, paths[3])
    return paths


def _describe(tokenizer: Path, config: Any, path: Path) -> None:
    for file in tokenizer.iterdir():
        if file.is_file() and "safetensors" not in file.name and file.name != "config.json":
            shutil.copyfile(file, path / file.name)
    config.save_pretrained(path)


def check(method: str, models: list[Path], out: Path) -> int:
    """Work out one whole parameter of each file by the formula; raise SystemExit where the merge has other values.

    Returns how many were compared. Steps are cast to bfloat16 where the program is run, not in the closed form.
    """
    chosen = {file: name for name, file in _files(models[0]).items() if name.endswith("norm.weight")}
    for name in chosen.values():
        seed, *sources, merged = (_read(path, name) for path in (*models, out))
        steps = torch.stack([source - seed for source in sources])
        if method == "task_arithmetic":
            expected = seed + 0.4 * steps.sum(dim=0)
        else:
            expected = seed + _ties(steps.bfloat16().float()).bfloat16().float()
        off = (merged - expected).abs() > 2.0**-7 * expected.abs()  # more than one step of bfloat16
        if bool(off.any()):
            raise SystemExit(
                f"{method}: {int(off.sum())} of {off.numel()} values of {name} are not what they should be"
            )
    return len(chosen)


def _ties(steps: torch.Tensor) -> torch.Tensor:
    """TIES at density 0.2 of (sources, elements), by sorting."""
    size = steps.abs()
    limits = size.sort(dim=1, descending=True).values[:, max(1, int(0.2 * steps.shape[1])) - 1]
    kept = torch.where(size >= limits[:, None], steps, 0.0)
    sign = torch.where(kept.sum(dim=0) >= 0, 1.0, -1.0)
    agrees = kept * sign > 0
    return torch.where(agrees, kept, 0.0).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def _read(path: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(path / _files(path)[name], "pt") as file:
        whole: torch.Tensor = file.get_tensor(name).reshape(-1).float()
    return whole


def _files(path: Path) -> dict[str, str]:
    """Parameter -> file."""
    found: dict[str, str] = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return found


def measure(method: str, models: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    from selfdev.models import read_headers

    out = options.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = bench_merge.command_for("selfdev", method, models, options, options.folder)
    seconds, peak = bench_merge.whole_command(command, options, options.folder / "log")
    checked = check(method, models, out)
    said = (options.folder / "log").read_text(encoding="utf-8")
    way = re.search(r"\bway\W+([\w ]+):", said)
    planned = re.search(r"peak memory\W+about ([\d.]+) GiB", said)
    files = {file.stat().st_ino: file.stat().st_size for path in (*models, out) for file in path.glob("*.safetensors")}
    shutil.rmtree(out)
    return {
        "way": way[1] if way else None,
        "planned_gib": float(planned[1]) if planned else None,
        "parameters": sum(shape.numel() for shape, _ in read_headers(str(models[0])).values()),
        "seconds": round(seconds, 1),
        "peak_gib": round(peak / bench_merge.GIB, 2),
        "fits_into_24_gib": peak <= LIMIT_GIB * bench_merge.GIB,
        "gb_read_and_written": round(sum(files.values()) / 1e9, 1),  # files on disk, each once
        "parameters_checked": checked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the models are and the merged one goes")
    parser.add_argument(
        "--methods", nargs="+", default=["task_arithmetic", "ties"], choices=["task_arithmetic", "ties"]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--layers", type=int, default=32, help="fewer, at least 2: a smaller model, to try the benchmark"
    )
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
