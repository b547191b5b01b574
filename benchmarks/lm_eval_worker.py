"""The half of compare_lm_eval.py that runs in lm-eval's own environment: its prompts, and its completions and verdicts.

    python lm_eval_worker.py JOB.json OUT.json

The task is lm-eval's own YAML file, included; only the place of the rows is replaced, since the hub may be out of
reach.
Imports nothing of selfdev.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TASK = "selfdev_local"
SOURCES = {
    "gsm8k": "gsm8k/gsm8k.yaml",
    "minerva_math": "minerva_math/minerva_math_algebra.yaml",  # the subjects differ in their rows only
    "hendrycks_math": "hendrycks_math/hendrycks_math_algebra.yaml",
}


def main(job_file: str, out_file: str) -> None:
    """Read a job, write one object per row."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    folder = Path(job_file).parent
    write_task(job, folder)
    rows = prompts_only(job, folder) if job["prompts_only"] else evaluated(job, folder)
    Path(out_file).write_text(json.dumps({"rows": rows, "versions": versions()}), encoding="utf-8")


def write_task(job: dict[str, Any], folder: Path) -> None:
    """A task file that includes lm-eval's and reads local rows."""
    import lm_eval
    import yaml

    task: dict[str, Any] = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / SOURCES[job["task"]]),
        "task": TASK,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": job["data_files"], "cache_dir": str(folder / "cache")},
    }
    if "train" not in job["data_files"]:
        task["training_split"] = None
    (folder / f"{TASK}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def prompts_only(job: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What would be asked, without a model."""
    from lm_eval.tasks import TaskManager, get_task_dict

    (task,) = get_task_dict([TASK], TaskManager(include_path=str(folder), include_defaults=False)).values()
    task.set_fewshot_seed(1234)  # as simple_evaluate does
    chat = {}
    if job["chat_template"]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(job["model"])

        def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:  # as HFLM does
            return tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        chat = {"apply_chat_template": True, "fewshot_as_multiturn": False, "chat_template": render}
    task.build_all_requests(rank=0, world_size=1, **chat)
    return [{"prompt": request.args[0], "settings": request.args[1]} for request in task.instances]


def evaluated(job: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What lm-eval's hf backend answers, and its verdicts."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    done = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": job["model"], "dtype": job["dtype"]},
        tasks=[TASK],
        batch_size=job["batch_size"],
        device=job["device"],
        log_samples=True,
        apply_chat_template=job["chat_template"],
        fewshot_as_multiturn=False,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    rows: dict[int, dict[str, Any]] = {}
    for sample in done["samples"][TASK]:  # one per row and filter
        request = sample["arguments"]["gen_args_0"] if isinstance(sample["arguments"], dict) else sample["arguments"][0]
        prompt, settings = request.values() if isinstance(request, dict) else request
        completion = sample["resps"][0][0] if isinstance(sample["resps"][0], list) else sample["resps"][0]
        row = rows.setdefault(
            sample["doc_id"], {"prompt": prompt, "settings": settings, "completion": completion, "verdicts": {}}
        )
        for metric in ("exact_match", "math_verify"):
            if metric in sample:
                row["verdicts"][f"{metric},{sample['filter']}"] = bool(sample[metric])
    return [rows[key] for key in sorted(rows)]


def versions() -> dict[str, str]:
    """Of what decides completions and verdicts."""
    from importlib.metadata import version

    return {name: version(name) for name in ("lm_eval", "transformers", "torch")}


if __name__ == "__main__":
    main(*sys.argv[1:])
