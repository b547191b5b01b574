"""The paper's presets: one method on two tasks."""

from __future__ import annotations

import pytest

from selfdev.config import differences, load_config


def test_the_two_presets_differ_in_the_task_only() -> None:
    gsm8k, math = (load_config(name).model_dump(mode="json") for name in ("paper-gsm8k", "paper-math"))
    keys = {line.partition(":")[0] for line in differences(gsm8k, math)}
    assert keys == {"task.name", "task.dev_size", "task.dev_subjects", "task.grader", "evaluate.max_new_tokens"}


@pytest.mark.parametrize("name", ["paper-gsm8k", "paper-math"])
def test_what_the_paper_states(name: str) -> None:
    config = load_config(name)
    assert config.generate.model == config.models.seed
    assert len(config.models.sources) == 3
    assert (config.models.scope, config.task.shots, config.task.test_size) == ("mlp", 5, "rest")
    temperatures = [config.generate.temperature / (1 + config.generate.decay * t) for t in range(config.iterations)]
    assert temperatures == pytest.approx([1.2, 1.0, 0.857], abs=5e-4)
    assert (config.generate.samples, config.pair.chosen_share, config.pair.rejected_share) == (3000, 0.03, 0.10)
    assert (config.train.beta, config.train.learning_rate, config.train.lora_rank) == (0.01, 1e-6, 256)
