"""Seconds per candidate, one run, same model, same questions, same candidates:

    (a) ours on transformers    (b) ours on vLLM    (c) mergekit-yaml to disk, then lm-eval's hf backend

    python benchmarks/bench_evaluation.py --sources A B C --data test.jsonl --train-data train.jsonl.gz \\
        --vllm-python .venv-vllm/bin/python --peer-python ../lmeval/bin/python

(a) and (b) ask behind the frozen five-shot prefix of a search, (c) behind lm-eval's own five shots, as its users do:
the prompts are alike in length, but those of (c) share no prefix. (c) pays start-up, writing and loading per candidate;
(a) and (b) load once per phase, and that time is given apart. Answers are greedy, float32, at most 256 new tokens.
The peer's environment needs lm-eval 0.4.13 and mergekit 0.1.5. Left out: GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import record

HERE = Path(__file__).resolve().parent
# The same two merges, as programs and as mergekit methods.
CANDIDATES = {
    "task arithmetic": """
import torch

def merge_models(task_vectors):
    return {name: sum(0.4 * tv[name] for tv in task_vectors) for name in task_vectors[0]}
""",
    "ties": """
import torch

def merge_models(task_vectors, density=0.5):
    merged = {}
    for name in task_vectors[0]:
        trimmed = []
        for tv in task_vectors:
            delta = tv[name]
            keep = max(1, int(density * delta.numel()))
            cut = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
            trimmed.append(torch.where(delta.abs() >= cut, delta, 0.0))
        stacked = torch.stack(trimmed)
        sign = torch.sign(stacked.sum(dim=0))
        agree = (torch.sign(stacked) == sign) & (stacked != 0)
        merged[name] = torch.where(agree, stacked, 0.0).sum(dim=0) / agree.sum(dim=0).clamp(min=1)
    return merged
""",
}
MERGEKIT = {
    "task arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.4, "normalize": False}},
    "ties": {"merge_method": "ties", "parameters": {"weight": 1.0, "density": 0.5, "normalize": True}},
}


def main() -> None:
    """Run what is asked for, print, record."""
    given = arguments()
    results: dict[str, Any] = {"model": given.model, "sources": len(given.sources), "questions": given.limit,
                               "threads": given.threads, "batch_size": given.batch_size}  # fmt: skip
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        folder = Path(name)
        results["(a) ours, transformers"] = ours(given, folder, "transformers", sys.executable)
        if given.vllm_python:
            results["(b) ours, vLLM"] = ours(given, folder, "vllm", given.vllm_python)
        if given.peer_python:
            results["(c) mergekit-yaml + lm-eval"] = peer(given, folder)
    results["ratios"] = ratios(results)
    print(json.dumps(results, indent=2))
    if given.record:
        print(f"recorded: {record.write(given.record, results)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="the seed")
    parser.add_argument("--sources", nargs="+", required=True, help="models fine-tuned from it")
    parser.add_argument("--data", type=Path, required=True, help="GSM8K test rows")
    parser.add_argument("--train-data", type=Path, required=True, help="GSM8K train rows, for lm-eval's shots")
    parser.add_argument("--limit", type=int, default=100, help="questions")
    parser.add_argument("--repeats", type=int, default=2, help="evaluations of each candidate in (a) and (b)")
    parser.add_argument("--peer-repeats", type=int, default=1, help="evaluations of each candidate in (c)")
    parser.add_argument("--peer-candidates", type=int, default=len(CANDIDATES), help="the first ones only in (c)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vllm-python", help="python of an environment with selfdev and vLLM")
    parser.add_argument("--peer-python", help="python of an environment with mergekit and lm-eval")
    parser.add_argument("--scratch", type=Path, help="where merged models are written; default: the system's")
    parser.add_argument("--record", help="name of a file in results/")
    return parser.parse_args()


def ours(given: argparse.Namespace, folder: Path, engine: str, python: str) -> dict[str, Any]:
    """Our executor in an environment that has the engine."""
    settings = {
        "threads": given.threads,
        "device": "cpu",
        "models.seed": given.model,
        "models.sources": given.sources,
        "models.dtype": "float32",
        "task.name": "gsm8k",
        "task.data": str(given.data),
        "evaluate.engine": engine,
        "evaluate.batch_size": given.batch_size,
        "vllm.max_model_len": 2048,
    }
    job = {"settings": settings, "limit": given.limit, "repeats": given.repeats, "candidates": CANDIDATES}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    root = HERE.parent
    environment = environ(given) | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "sandbox")])}
    call([python, str(HERE / "evaluation_worker.py"), str(folder / "job.json"), str(folder / "out.json")], environment)
    done: dict[str, Any] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    rows = done["rows"]
    return {
        "seconds_per_candidate": spread([row["seconds"] for row in rows]),
        "swap_share": fmean(row["swap_seconds"] / row["seconds"] for row in rows),
        "new_tokens_per_second": fmean(row["new_tokens"] / row["generate_seconds"] for row in rows),
        **done,
    }


def peer(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What people do today: one checkpoint and one lm-eval process per candidate."""
    rows = []
    for name in list(CANDIDATES)[: given.peer_candidates]:
        for _ in range(given.peer_repeats):
            rows.append({"candidate": name, **peer_candidate(given, folder, MERGEKIT[name])})
    return {"seconds_per_candidate": spread([row["seconds"] for row in rows]), "rows": rows}


def peer_candidate(given: argparse.Namespace, folder: Path, method: dict[str, Any]) -> dict[str, Any]:
    """One merge to disk and one evaluation of it, in seconds."""
    from selfdev.models import local_directory
    from selfdev.tasks.gsm8k import FIELDS
    from selfdev.tasks.rows import read_rows

    base = str(local_directory(given.model))
    recipe = {"base_model": base, "dtype": "float32", "models": [{"model": str(local_directory(source))}
              for source in given.sources], **method}  # fmt: skip
    (folder / "merge.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    for split, file, count in (("test", given.data, given.limit), ("train", given.train_data, None)):
        rows = read_rows(file, FIELDS, count)
        lines = [json.dumps({"question": row.question, "answer": row.answer}) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    merged = folder / "merged"
    job = {
        "task": "gsm8k",
        "data_files": {split: str(folder / f"{split}.jsonl") for split in ("test", "train")},
        "prompts_only": False,
        "chat_template": False,
        "model": str(merged),
        "dtype": "float32",
        "device": "cpu",
        "batch_size": given.batch_size,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = environ(given)
    begin = time.perf_counter()
    mergekit = Path(given.peer_python).parent / "mergekit-yaml"
    call([str(mergekit), str(folder / "merge.yaml"), str(merged), "--quiet"], environment)
    middle = time.perf_counter()
    worker = str(HERE / "lm_eval_worker.py")
    call([given.peer_python, worker, str(folder / "job.json"), str(folder / "out.json")], environment)
    end = time.perf_counter()
    shutil.rmtree(merged)
    verdicts = [row["verdicts"] for row in json.loads((folder / "out.json").read_text(encoding="utf-8"))["rows"]]
    return {
        "seconds": end - begin,
        "merge_seconds": middle - begin,
        "lm_eval_seconds": end - middle,
        "correct": sum(verdict["exact_match,strict-match"] for verdict in verdicts),
        "questions": len(verdicts),
    }


def environ(given: argparse.Namespace) -> dict[str, str]:
    """The same threads for everyone, no network."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def call(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Times faster than (c), by medians."""
    peers = results.get("(c) mergekit-yaml + lm-eval")
    if peers is None:
        return {}
    slow = peers["seconds_per_candidate"]["median"]
    names = ("(a) ours, transformers", "(b) ours, vLLM")
    return {name: slow / results[name]["seconds_per_candidate"]["median"] for name in names if name in results}


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


if __name__ == "__main__":
    main()
