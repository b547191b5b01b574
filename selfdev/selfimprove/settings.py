"""The configuration of a self-improvement; saved with what it works on, so that a stopped one is continued as begun."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfdev.config import ModelRef, PositiveInt, Section, TaskConfig

THRESHOLDS = {"likelihood": 0.0, "majority": 0.5, "true-false": 0.5, "quality": 0.5}  # paper: 0.5 for the last two


class SolverTrainConfig(Section):
    """LoRA fine-tuning; adapter and optimiser go on from epoch to epoch."""

    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-4  # constant
    batch_size: PositiveInt = 8  # rows per step
    micro_batch: PositiveInt = 8  # rows computed at once
    lora_rank: PositiveInt = 16  # alpha is twice that

    @model_validator(mode="after")
    def _divides(self) -> SolverTrainConfig:
        if self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}")
        return self


class CrossConfig(Section):
    """External, verified answers; see `selfdev.dynamics.cross`."""

    schedule: Literal["none", "early", "uniform", "late"] = "none"
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # external answers over training questions, in the whole run
    data: str | None = None  # rows with question and worked answer; None: the training questions' own solutions


class ImproveConfig(Section):
    """Everything about one self-improvement."""

    model: ModelRef
    task: TaskConfig  # dev_size: training questions; test_size: measurement questions
    epochs: PositiveInt = 10
    samples: Annotated[int, Field(ge=2)] = 16  # N, per question
    select: Literal["likelihood", "majority", "true-false", "quality"] = "likelihood"  # what gives the quality
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # samples of a lower quality are dropped
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    sample_batch: PositiveInt = 256  # samples drawn at once
    max_new_tokens: PositiveInt | None = None  # None: the task's own limit
    train: SolverTrainConfig = SolverTrainConfig()
    cross: CrossConfig = CrossConfig()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "cpu"
    threads: PositiveInt = 2
    seed: int = 0

    @model_validator(mode="after")
    def _measures(self) -> ImproveConfig:
        if not isinstance(self.task.test_size, int) or self.task.test_size < 2:
            raise ValueError(f"{self.task.test_size} measurement questions: at least 2 are needed for standard errors")
        return self

    @property
    def early_end(self) -> float:
        """The time whose points forecast the end: three epochs, or less in a short run."""
        return min(3.0, self.epochs / 2)
