"""Scorer processes: what hangs, eats memory or dies costs one job; the pool and its owner go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfdev.errors import StageError
from selfdev.grading import Grade, gold_of, grade_all, load_grader
from selfdev.grading.processes import Limits, Pool, Stopped, shared_pool

JOBS = "tests.unit.grading.jobs:functions"
# github.com/huggingface/Math-Verify/issues/65: big-integer arithmetic, which no signal interrupts
HANGING = r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def make_pool() -> Iterator[Callable[..., Pool]]:
    pools = []

    def make(functions: str = JOBS, size: int = 1, **limits: float) -> Pool:
        pools.append(Pool(functions, limits=Limits(**limits), size=size))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def value(pool: Pool, *job: str) -> object:
    return pool.ask(*job)[0]


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends in time; one that is dead and not yet waited for has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_one_process_does_job_after_job(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(size=3)
    first = value(pool, "pid")
    assert value(pool, "echo", "ünïcödé\n$\\frac12$") == "ünïcödé\n$\\frac12$"
    assert value(pool, "pid") == first
    assert (pool.counts.jobs, pool.counts.started) == (3, 1)


def test_a_process_is_replaced_after_its_jobs(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(jobs=2)
    pids = [value(pool, "pid") for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_job_over_its_time_costs_that_time_only(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(seconds=0.3)
    pid = value(pool, "pid")
    assert isinstance(pid, int)
    begin = time.monotonic()
    with pytest.raises(Stopped, match=r"stopped after 0\.3 s"):
        pool.ask("wait", "60", "late")
    assert time.monotonic() - begin < 5
    assert gone(pid)
    assert value(pool, "echo", "next") == "next"
    assert (pool.counts.timed_out, pool.counts.died, pool.counts.started) == (1, 0, 2)


def test_a_job_that_eats_memory_is_stopped(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(memory=512 << 20)
    assert value(pool, "allocate", "64") == 64 << 20
    with pytest.raises(Stopped, match="MemoryError"):
        pool.ask("allocate", "1024")
    assert value(pool, "allocate", "64") == 64 << 20
    assert pool.counts.died == 1


def test_a_bug_in_a_comparison_stops_the_job_only(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool()
    with pytest.raises(Stopped, match="RuntimeError"):
        pool.ask("fail")
    assert value(pool, "echo", "next") == "next"


def test_a_job_that_brings_its_process_down_is_tried_twice(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool()
    with pytest.raises(Stopped, match="its process died"):
        pool.ask("abort")
    assert (pool.counts.jobs, pool.counts.died, pool.counts.started) == (1, 2, 2)
    assert value(pool, "echo", "next") == "next"


def test_a_process_killed_in_the_middle_of_a_job_costs_no_verdict(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool()
    pid = value(pool, "pid")
    assert isinstance(pid, int)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(value, pool, "wait", "0.5", "answer")
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        assert waiting.result() == "answer"
    assert (pool.counts.died, pool.counts.started) == (1, 2)


def test_a_process_killed_while_idle_is_replaced(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool()
    pid = value(pool, "pid")
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert value(pool, "echo", "next") == "next"


def test_many_threads_share_few_processes(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(size=2)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: value(pool, "wait", "0.01", str(i)), range(40)))
    assert answers == [str(i) for i in range(40)]
    assert pool.counts.started <= 2


def test_a_process_outlives_the_thread_that_asked_first(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool()
    pids: list[object] = []
    thread = threading.Thread(target=lambda: pids.append(value(pool, "pid")))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert value(pool, "pid") == pids[0]


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(3)", "raise SystemExit(3)"])
def test_no_process_outlives_its_owner(end: str) -> None:
    code = (
        "import os, threading\n"
        "from selfdev.grading.processes import Limits, Pool\n"
        f"pool = Pool({JOBS!r}, limits=Limits(seconds=60), size=2)\n"
        "busy = threading.Thread(target=pool.ask, args=('wait', '60', ''), daemon=True)\n"
        "pid = pool.ask('pid')[0]\n"
        "busy.start()\n"  # takes the idle one
        "print(pid, pool.ask('pid')[0], flush=True)\n" + end
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    owner = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    idle, busy = (int(pid) for pid in owner.stdout.split())
    assert owner.returncode in (-9, 3)
    assert gone(idle)
    assert gone(busy)


def test_a_process_that_cannot_start_is_one_line(make_pool: Callable[..., Pool]) -> None:
    with pytest.raises(StageError, match=r"cannot start \(AttributeError: .*absent"):
        make_pool("tests.unit.grading.jobs:absent").ask("echo", "")
    with pytest.raises(StageError, match=r"cannot start \(.*No such file"):
        Pool(JOBS, python=("/nonexistent/python",)).ask("echo", "")
    with pytest.raises(StageError, match=r"cannot start \(it died\)"):
        Pool(JOBS, python=(sys.executable, "--no-such-option")).ask("echo", "")
    with pytest.raises(StageError, match=r"cannot start \(not ready after 0\.1 s\)"):
        make_pool(start_seconds=0.1, functions="selfdev.grading.scorer:math_functions").ask("answers", "1", "1")


def test_a_fork_starts_processes_of_its_own() -> None:
    pool = shared_pool()
    child = os.fork()
    if child == 0:
        os._exit(shared_pool() is pool)
    assert os.waitpid(child, 0)[1] == 0
    assert shared_pool() is pool


@pytest.fixture
def impatient(make_pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> Pool:
    """The graders' own pool, with less patience."""
    pool = make_pool("selfdev.grading.scorer:math_functions", size=1, seconds=2.0)
    monkeypatch.setattr("selfdev.grading.processes.shared_pool", lambda: pool)
    monkeypatch.setattr("selfdev.grading.math.shared_pool", lambda: pool)
    return pool


@pytest.mark.parametrize(
    "grader",
    ["math", pytest.param("math-verify", marks=pytest.mark.slow), pytest.param("math-minerva", marks=pytest.mark.slow)],
)
def test_the_known_hanging_expression_costs_one_timeout(grader: str, impatient: Pool) -> None:
    closing = "Final Answer: The final answer is ${}$. I hope it is correct."
    outputs = [closing.format(answer) for answer in (r"\sqrt{12}", HANGING, r"\frac{6}{\sqrt{3}}")]
    grades = grade_all(load_grader(grader), outputs, [gold_of(grader, r"2\sqrt{3}")] * 3)
    assert [grade.correct for grade in grades] == [True, False, True]
    assert [grade.timed_out for grade in grades] == [False, True, False]
    assert (impatient.counts.timed_out, impatient.counts.died, impatient.counts.started) == (1, 0, 2)


def test_graders_work_in_any_thread() -> None:
    judge = load_grader("math-verify")  # math-verify itself refuses outside the main thread
    with ThreadPoolExecutor(2) as threads:
        grades = list(threads.map(lambda n: judge(f"$\\boxed{{{n}/2}}$", r"\boxed{\frac{3}{2}}"), range(1, 5)))
    assert [grade.correct for grade in grades] == [False, False, True, False]


def test_verdicts_keep_their_order_and_are_reported_one_by_one() -> None:
    seen: list[Grade] = []

    def slow_for_some(completion: str, gold: str) -> Grade:
        time.sleep(0.05 * (completion == "0"))
        return Grade(completion, completion == gold)

    grades = grade_all(slow_for_some, ["0", "1", "2"], ["0", "0", "2"], lambda: seen.append(Grade(None, False)))
    assert [grade.extracted for grade in grades] == ["0", "1", "2"]
    assert [grade.correct for grade in grades] == [True, False, True]
    assert len(seen) == 3
    with pytest.raises(ValueError, match="zip"):
        grade_all(slow_for_some, ["0", "1"], ["0"])


def test_an_error_of_a_grader_is_not_swallowed() -> None:
    def broken(completion: str, gold: str) -> Grade:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        grade_all(broken, ["0"] * 50, ["0"] * 50)
