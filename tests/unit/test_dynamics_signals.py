"""Stop advice, the alarm for rise-then-fall, and what the notes say about few points."""

from __future__ import annotations

import numpy as np
import pytest

from selfdev.dynamics import Advice, Curve, GapModel, advise, blind_spot, default_tolerance, fit, notes, simulate

MODEL = GapModel(alpha=1.0, beta=0.5, k=0.8, b=1.6, solver0=30.0, verifier0=23.0)
FALLING = (9.0, 7.5, 6.5, 5.8, 5.2, 4.8)  # the verifier's uncertainty: self-assessed quality rises


def run(score: tuple[float, ...], error: float | None = 0.01, verifier: tuple[float, ...] = FALLING) -> Curve:
    n = len(score)
    return Curve(tuple(map(float, range(n))), tuple(v + 2 for v in verifier[:n]), verifier[:n], score=score,
                 score_se=None if error is None else (error,) * n)  # fmt: skip


# -- alarm ------------------------------------------------------------------------------------------------------------


def test_a_collapse_fires() -> None:
    alarm = blind_spot(run((0.4, 0.5, 0.6, 0.5, 0.4, 0.3)))
    assert alarm is not None
    assert alarm.fired
    assert alarm.since == 2.0
    assert alarm.fall == pytest.approx(-0.3)  # a straight line from 0.6 to 0.3
    assert alarm.rose_before
    # a line through 6.5, 5.8, 5.2, 4.8: slope (-1.5 * 6.5 - 0.5 * 5.8 + 0.5 * 5.2 + 1.5 * 4.8) / 5 = -0.57
    assert alarm.rise == pytest.approx(0.57 * 3)
    assert alarm.p_value < 1e-9


def test_without_errors_four_points_of_fall_are_needed() -> None:
    assert blind_spot(run((0.4, 0.5, 0.6, 0.5, 0.41, 0.3), error=None)).fired  # type: ignore[union-attr]
    assert not blind_spot(run((0.4, 0.5, 0.6, 0.62, 0.55, 0.5), error=None)).fired  # type: ignore[union-attr]
    assert blind_spot(run((0.4, 0.5, 0.6), error=None)) is None


def test_a_healthy_run_is_silent() -> None:
    for score in ((0.4, 0.5, 0.55, 0.58, 0.59, 0.595), (0.5, 0.51, 0.49, 0.505, 0.495, 0.5)):
        alarm = blind_spot(run(score))
        assert alarm is not None
        assert not alarm.fired


def test_a_fall_that_the_verifier_sees_is_no_blind_spot() -> None:
    alarm = blind_spot(run((0.4, 0.5, 0.6, 0.5, 0.4, 0.3), verifier=(9.0, 7.5, 6.5, 6.9, 7.4, 8.0)))
    assert alarm is not None
    assert alarm.p_value < 1e-9
    assert not alarm.fired


def test_a_score_at_some_times_is_looked_at_there() -> None:
    """Uncertainty is measured between the iterations too, and behind the last; the score only at 0, 1, 2, 3."""
    times = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    verifier = (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0)
    score, se = (0.4, None, 0.6, None, 0.5, None, 0.4, None), (0.01, None) * 4
    alarm = blind_spot(Curve(times, verifier, verifier, score=score, score_se=se))
    alone = blind_spot(
        Curve((0, 1, 2, 3), (9, 7, 5, 3), (9, 7, 5, 3), score=(0.4, 0.6, 0.5, 0.4), score_se=(0.01,) * 4)
    )
    assert alarm is not None
    assert alone is not None
    assert alarm.fired
    assert (alarm.since, alarm.fall, alarm.p_value) == (alone.since, alone.fall, alone.p_value)
    assert (alarm.since, alarm.fall) == (1.0, pytest.approx(-0.2))
    assert alarm.rise == pytest.approx(2 * 2)  # 2 nats a unit of time, from 1 to 3: what lies behind has no score
    # a rise of two points counts as it is; of four and more points it has to be significant
    noisy = (9.0, 8.0, 7.0, 6.9, 3.0, 7.2, 6.6, 2.0)
    assert not blind_spot(Curve(times, noisy, noisy, score=score, score_se=se)).fired  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("score", "error", "said"),
    [
        ((0.1, None, 0.3), (0.01, 0.01, 0.01), "score_se must be there where score is"),
        ((0.1, None, float("nan")), None, "score: every value must be a finite number"),
        ((0.1, None, 0.3), (0.01, None, 0.0), "standard errors must be above 0"),
    ],
)
def test_scores_that_cannot_be(score: tuple[float], error: tuple[float] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Curve((0, 1, 2), (3, 2, 1), (3, 2, 1), score=score, score_se=error)
    with pytest.raises(ValueError, match="solver: every value"):
        Curve((0, 1, 2), (3, None, 1), (3, 2, 1))  # type: ignore[arg-type]


def test_own_judgement_goes_before_uncertainty() -> None:
    curve = Curve(
        (0, 1, 2), (5, 5, 5), (3, 3, 3), score=(0.6, 0.5, 0.4), score_se=(0.01,) * 3, assessed=(0.5, 0.6, 0.7)
    )
    alarm = blind_spot(curve)
    assert alarm is not None
    assert alarm.fired
    assert not alarm.rose_before
    assert alarm.rise == pytest.approx(0.2)


def test_no_score_no_alarm() -> None:
    assert blind_spot(simulate(MODEL, [0, 1, 2, 3, 4])) is None


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(1)
    fired = 0
    for _ in range(200):
        alarm = blind_spot(run(tuple((0.5 + rng.normal(0, 0.02, 6)).tolist()), error=0.02))
        fired += alarm is not None and alarm.fired
    assert fired <= 20  # 5 % are 10; three standard deviations more are 19


# -- advice -----------------------------------------------------------------------------------------------------------


def test_advice_goes_by_the_interval_of_the_next_gain() -> None:
    early = fit(simulate(MODEL, np.linspace(0, 3, 10).tolist(), (0.05, 0.05), seed=1))
    late = fit(simulate(MODEL, np.linspace(0, 20, 20).tolist(), (0.05, 0.05), seed=1))
    assert advise(early) is Advice.CONTINUE
    assert advise(late) is Advice.STOP
    assert advise(early, tolerance=early.next_gain.value) is Advice.UNCLEAR
    assert advise(fit(simulate(MODEL, [0, 1, 2]))) is Advice.UNCLEAR
    assert default_tolerance(run((0.1,) * 6)) == pytest.approx(0.01 * (11 - 6.8))
    with pytest.raises(ValueError, match="tolerance"):
        advise(early, tolerance=-1.0)


def test_an_alarm_stops() -> None:
    curve = run((0.4, 0.5, 0.6, 0.5, 0.4, 0.3))
    assert advise(fit(curve), blind_spot(curve)) is Advice.ALARM
    healthy = run((0.4, 0.5, 0.55, 0.58, 0.59, 0.595))
    assert advise(fit(healthy), blind_spot(healthy)) is not Advice.ALARM


def test_notes_on_three_points() -> None:
    said = " ".join(notes(fit(simulate(MODEL, [0, 1, 2]))))
    assert "3 points tell the direction" in said
    assert "R2 says nothing" in said
    assert "no intervals" in said
    assert "alpha, beta and k by themselves" in said


def test_notes_on_a_model_that_does_not_hold() -> None:
    t = np.linspace(0, 10, 20)
    rng = np.random.default_rng(2)
    solver, verifier = 20 + 10 * np.exp(-0.5 * t), 18 + 5 * np.exp(-0.2 * t)
    curve = Curve(tuple(t.tolist()), tuple((solver + rng.normal(0, 0.05, 20)).tolist()),
                  tuple((verifier + rng.normal(0, 0.05, 20)).tolist()))  # fmt: skip
    assert any("different rates" in note for note in notes(fit(curve)))
    inverted = Curve(curve.times, tuple(10 + 0.5 * v for v in curve.verifier), curve.verifier)
    assert any("rules out" in note for note in notes(fit(inverted)))
    line = Curve(tuple(range(8)), tuple((30 - np.arange(8) + rng.normal(0, 0.1, 8)).tolist()),
                 tuple((20 - np.arange(8) / 2 + rng.normal(0, 0.1, 8)).tolist()))  # fmt: skip
    assert any("straight line fits as well" in note for note in notes(fit(line)))
    wrong = Curve(curve.times, curve.solver, curve.verifier, (0.001,) * 20, (0.001,) * 20)
    assert any("as far as their standard errors" in note for note in notes(fit(wrong)))
    assert any("4 points: 1 more" in note for note in notes(fit(simulate(MODEL, [0, 1, 2, 3]))))
