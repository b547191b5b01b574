"""What a run is said to cost before it starts: counts and minutes worked by hand, with a clock that is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfdev import forecast
from tests.scripted import scripted_config, scripted_parts


def test_samples_of_the_gap_loads_and_judging_count(monkeypatch: pytest.MonkeyPatch) -> None:
    config = scripted_config(
        iterations=3, **{"generate.samples": 8, "generate.batch_size": 4, "gap.samples": 20, "gap.checkpoints": 2}
    )
    assert len(config.gap.verifiers) == 2
    clock = iter([0.0, 2.0, 10.0, 14.0, 22.0])  # an evaluation of 2 s, a load of 4 s, four samples in 8 s
    monkeypatch.setattr("selfdev.forecast.time.monotonic", lambda: next(clock))
    expected = forecast.measure(config, scripted_parts())
    assert (expected.samples, expected.measured_samples) == (24, 3 * 20 * 3)
    assert (expected.evaluation_seconds, expected.sample_seconds) == (2.0, 2.0)
    assert expected.load_seconds == 3 * 3 * 4.0
    assert expected.judge_seconds == 3 * (8 + 60) * 2 * forecast.JUDGE_SHARE * 2.0
    told = replace(expected, baseline_evaluations=10, candidate_evaluations=20, train_seconds=60.0, judge_seconds=30.0)
    assert told.minutes(0.5) == pytest.approx(((10 + 10) * 2 + (24 + 180) * 2 + 60 + 30 + 36) / 60)
    assert told.minutes(1.0) - told.minutes(0.5) == pytest.approx(10 * 2 / 60)


def test_without_checkpoints_one_load_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr("selfdev.forecast.time.monotonic", lambda: next(clock))
    config = scripted_config(iterations=2, **{"gap.samples": 0, "gap.checkpoints": 5})
    expected = forecast.measure(config, scripted_parts())
    assert (expected.measured_samples, expected.load_seconds) == (0, 4.0)
