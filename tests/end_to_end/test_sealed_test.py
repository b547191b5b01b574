"""The sealed test set: what a search can reach of it, who opens it, and what the ledger says."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, MethodType, ModuleType

import pytest
from rich.console import Console

import selfdev
from selfdev import final, loop, wiring
from selfdev.cli import main
from selfdev.errors import RunError, StageError
from selfdev.evaluation import Run
from selfdev.grading.gsm8k import grade_strict
from selfdev.report import test as reports
from selfdev.report.live import RunView
from selfdev.rundir import RunDirectory
from selfdev.sealed import SEALED_NAME, open_envelope, seal
from selfdev.store import Store
from selfdev.tasks.base import Task
from selfdev.types import ExecutionStatus, Question, Split
from tests.scripted import TEST, HashedWorker, racing_config, racing_parts

CONFIG = racing_config(**{"generate.samples": 24, "iterations": 1})


@contextmanager
def opened(path: Path, worker: type[HashedWorker] = HashedWorker) -> Iterator[Run]:
    with open(os.devnull, "w") as sink, RunDirectory(path, CONFIG) as directory:
        directory.begin()
        yield Run(CONFIG, directory, racing_parts(2, None, worker), RunView(Console(file=sink)))


def search(path: Path) -> None:
    with opened(path) as run:
        loop.run(run.config, run.directory, run.parts, run.view)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "run"
    search(path)
    return path


@pytest.fixture
def path(finished: Path, tmp_path: Path) -> Path:
    """A finished search of which nothing is tested yet."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def report(store: Store) -> str:
    with open(os.devnull, "w") as sink:
        console = Console(record=True, width=200, file=sink)
        console.print(reports.test_report(store))
        return console.export_text()


def others(store: Store, count: int) -> list[str]:
    """Ids of programs with a merged model that are not registered, the earliest drawn first."""
    taken = set(store.winners().values())
    free = [r.id for r in store.candidates(1) if r.status is ExecutionStatus.OK and r.duplicate_of is None]
    return [i for i in free if i not in taken][:count]


# -- what a search can reach ------------------------------------------------------------------------------------------


def reachable(root: object) -> Iterator[object]:
    """Everything that can be got at from an object: attributes, items, closures, defaults; modules stay out."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, ModuleType | type):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, FunctionType):
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            waiting += [*cells, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        elif isinstance(thing, MethodType):
            waiting += [thing.__self__, thing.__func__]
        else:
            if isinstance(thing, functools.partial):
                waiting += [thing.func, thing.args, thing.keywords]
            waiting += gc.get_referents(thing)


def secret_task() -> Task:
    test = tuple(Question(f"t-{i}", f"secret prompt {i}", f"secret gold {i}", "add") for i in range(5))
    dev = tuple(Question(f"d-{i}", f"open prompt {i}", f"open gold {i}", "add") for i in range(5))
    references = {q.id: f"because of {q.gold}" for q in dev + test}
    return Task("hidden", dev, test, (), 8, grade_strict, references=references)


def texts(root: object) -> list[str]:
    return [thing for thing in reachable(root) if isinstance(thing, str)]


def test_the_walk_finds_what_is_there() -> None:
    task = secret_task()
    for holder in (task, lambda: task, functools.partial(print, task), [{"x": (task,)}]):
        found = texts(holder)
        assert "secret gold 3" in found
        assert "because of secret gold 4" in found


def test_nothing_of_a_test_question_but_id_and_hash_is_left_when_it_is_sealed(tmp_path: Path) -> None:
    task, envelope = seal(secret_task())
    assert any("secret" in text for text in texts(envelope))  # on its way to the disk
    assert not any("secret" in text for text in texts(task))
    assert "because of open gold 4" in texts(task)
    envelope.seal(tmp_path)
    assert not any("secret" in text for text in texts((task, envelope)))
    assert "secret" not in repr(envelope)
    assert [q.id for q in envelope.questions] == [f"t-{i}" for i in range(5)]
    assert open_envelope(tmp_path, envelope.digest) == secret_task().test


def test_no_test_question_is_reachable_from_the_parts_of_a_run(path: Path) -> None:
    with opened(path) as run:
        before = texts(run.parts)
        assert any(TEST[7].prompt in text or json.dumps(TEST[7].prompt) in text for text in before)
        loop.record_facts(run)
        # the scripted worker plays the model, so it knows what to answer; a real one has prompts only
        after = list(reachable((run.parts.task, run.parts.envelope, run.parts.facts, run.config)))
        assert not [t for t in after if isinstance(t, str) and any(q.prompt in t for q in TEST)]
        assert not [t for t in after if isinstance(t, Question) and t.id.startswith("test")]


def test_a_real_task_is_forgotten_by_the_whole_process(tmp_path: Path) -> None:
    """Whatever a task module might have kept (a cache, say): no object of this process holds a test question."""
    config = racing_config(**{"seed": 918273, "task.dev_size": 10, "task.test_size": 12})
    whole = wiring.load_run_task(config)
    ids, prompts = {q.id for q in whole.test}, [q.prompt.rsplit("Question:", 1)[1] for q in whole.test]
    assert len(ids) == 12
    task, envelope = seal(whole)
    del whole
    envelope.seal(tmp_path)
    gc.collect()
    with warnings.catch_warnings():  # some objects of torch warn when they are looked at
        warnings.simplefilter("ignore")
        held = [thing for thing in gc.get_objects() if type(thing) is Question and thing.id in ids]
    assert held == []
    assert not [t for t in texts((task, envelope)) if any(prompt in t for prompt in prompts)]
    assert {q.id for q in envelope.questions} == ids
    assert set(task.references) == {q.id for q in task.dev}


def test_no_reference_answer_is_in_the_run_but_in_the_sealed_file(tmp_path: Path) -> None:
    """Store, log and files of a search hold no test prompt; the sealed file holds all."""
    search(tmp_path / "run")
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file() and file != tmp_path / "run" / SEALED_NAME:
            assert b"Question: test" not in file.read_bytes(), file
    rows = json.loads((tmp_path / "run" / SEALED_NAME).read_text())
    assert [(r["prompt"], r["gold"]) for r in rows] == [(q.prompt, q.gold) for q in TEST]


def test_one_module_opens_the_envelope() -> None:
    package = Path(selfdev.__file__).parent
    naming = {f.relative_to(package).as_posix() for f in package.rglob("*.py") if "open_envelope" in f.read_text()}
    assert naming == {"final.py", "sealed.py"}
    path_parts = ("SEALED_NAME", '"test.json"')
    assert {f.name for f in package.rglob("*.py") if any(p in f.read_text() for p in path_parts)} == {"sealed.py"}


AUDITED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.end_to_end.test_sealed_test import opened, search
from selfdev import final

path, seen = Path(sys.argv[1]), []

def hook(event, given):
    if event == "open" and isinstance(given[0], (str, bytes, os.PathLike)):
        name = os.fsdecode(given[0])
        if "test.json" in name:
            writes = bool((given[2] or 0) & (os.O_WRONLY | os.O_RDWR))
            seen.append(["write" if writes else "read", name])
    elif event in ("os.rename", "os.link", "os.symlink", "shutil.copyfile") and "test.json" in str(given):
        seen.append([event, os.fsdecode(given[1])])

sys.addaudithook(hook)
found = {{}}
search(path)
found["search"], seen = seen, []
search(path)
found["second start"], seen = seen, []
with opened(path) as run:
    final.test(run)
found["test"] = seen
print(json.dumps(found))
"""


def test_a_search_writes_the_sealed_file_once_and_never_reads_it(tmp_path: Path) -> None:
    script = AUDITED.format(root=str(Path(__file__).parents[2]))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    sealed = str(tmp_path / "run" / SEALED_NAME)
    assert found["search"] == [["write", sealed + ".tmp"], ["os.rename", sealed]]
    assert found["second start"] == []
    assert found["test"] == [["read", sealed]]


# -- opening ----------------------------------------------------------------------------------------------------------


def test_the_registered_are_scored_on_every_test_question(path: Path) -> None:
    with opened(path) as run:
        assert final.waiting(run.store) == list(dict.fromkeys(run.store.winners().values()))
        assert final.test(run) == 3
        roles, counts = run.store.winners(), run.store.counts(Split.TEST)
        assert {counts[i].total for i in roles.values()} == {len(TEST)}
        assert set(counts) >= set(roles.values())
        assert {run.store.candidate(i).duplicate_of or i for i in counts} == set(roles.values())
        assert [(o.number, o.candidates, o.questions) for o in run.store.ledger()] == [(1, tuple(roles.values()), 40)]
        assert final.waiting(run.store) == []
        text = report(run.store)
    assert "the set was opened once" in text
    assert "registered after opening" not in text
    assert "looked at" not in text


def test_test_answers_change_no_dev_score(path: Path) -> None:
    with opened(path) as run:
        before = (run.store.scored(), run.store.final_counts(), run.store.counts(Split.DEV), run.store.question_uses())
        final.test(run)
        assert (run.store.scored(), run.store.final_counts(), run.store.counts(Split.DEV),
                run.store.question_uses()) == before  # fmt: skip
        assert len({c.id for c in run.store.scored()}) == 24


def test_the_ledger_has_its_line_before_a_question_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as run:

        def stop(*_: object) -> None:
            assert run.store.openings() == 1
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(final, "open_envelope", stop)
            with pytest.raises(KeyboardInterrupt):
                final.test(run)
        assert run.store.openings() == 1
        assert final.test(run) == 3  # the same opening goes on
        assert run.store.openings() == 1


KILLED_OPENING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from selfdev import final
from selfdev.store import Store
from tests.end_to_end.test_sealed_test import opened
real, left = Store.add_answers, [2]
def counted(*args):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
Store.add_answers = counted
with opened(Path(sys.argv[1])) as run:
    final.test(run)
"""


def test_a_killed_opening_goes_on_as_the_same_opening(path: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(path, tmp_path / "whole"))
    script = KILLED_OPENING.format(root=str(Path(__file__).parents[2]))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", script, str(path)], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    with opened(path) as run:
        assert len(run.store.ledger()) == 1
        assert len(final.waiting(run.store)) == 2
        assert final.test(run) == 2
        assert len(run.store.ledger()) == 1
        rows = run.store.dump()
    with opened(whole) as run:
        final.test(run)
        assert run.store.dump() == rows


def test_nothing_waiting_opens_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as run:
        final.test(run)
        before = run.store.dump()

        def refuse(*_: object) -> None:
            raise AssertionError("must not be called")

        monkeypatch.setattr(final, "open_envelope", refuse)
        assert final.test(run) == 0
        assert run.store.openings() == 1
        assert run.store.dump() == before


def test_a_later_opening_is_counted_and_its_numbers_are_marked(path: Path) -> None:
    with opened(path) as run:
        final.test(run)
        (late,) = others(run.store, 1)
        assert final.register(run.store, [late[:8]]) == [late]
        assert run.store.registered_after() == {"winner": 0, "seed": 0, "baseline": 0, f"named {late}": 1}
        assert final.test(run) == 1
        assert [o.candidates for o in run.store.ledger()][1:] == [(late,)]
        text = report(run.store)
        lines = [line for line in text.splitlines() if "(registered after opening 1)" in line]
    assert len(lines) == 1
    assert late in lines[0]
    assert "the set was opened 2 times" in text
    assert "opening 2: " in text
    assert "later numbers come from a set that had been looked at" in text


def test_who_is_registered_while_an_opening_is_stopped_belongs_to_the_next(path: Path) -> None:
    with opened(path, type("Stopped", (HashedWorker,), {"again": _stop})) as run:
        with pytest.raises(KeyboardInterrupt):
            final.test(run)
        (late,) = others(run.store, 1)
        final.register(run.store, [late])
        assert run.store.registered_after()[f"named {late}"] == 1
    with opened(path) as run:
        assert final.test(run) == 4
        assert [late in o.candidates for o in run.store.ledger()] == [False, True]


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_blind_registration_is_not_marked(path: Path) -> None:
    with opened(path) as run:
        named = others(run.store, 4)
        final.register(run.store, named)
        assert final.test(run) == 7
        assert run.store.openings() == 1
        text = report(run.store)
        # each of 5 against two others, but the best baseline and the seed are no candidates
        assert len(reports.comparisons(run.store)) == 10
    assert "registered after" not in text
    assert "test gain, shrunk" in text  # five were tested: the best of them is partly luck


def test_what_can_be_registered(path: Path) -> None:
    with opened(path) as run:
        store = run.store
        rows = store.candidates(1)
        failed = next(r for r in rows if r.status is ExecutionStatus.EXCEPTION)
        repeat = next(r for r in store.candidates(0) if r.duplicate_of is not None)
        with pytest.raises(RunError, match=f"{failed.id} ended with exception, so there is nothing to test"):
            final.register(store, [others(store, 1)[0], failed.id])
        with pytest.raises(RunError, match="is no id in this run"):
            final.register(store, ["zzz"])
        before = store.winners()
        assert len(before) == 3  # all or none
        assert final.register(store, [before["winner"]]) == [before["winner"]]  # it is already
        assert final.register(store, [repeat.id]) == [repeat.duplicate_of]
        named = {role: i for role, i in store.winners().items() if role not in before}
        assert set(named.values()) <= {repeat.duplicate_of}
        assert final.register(store, [repeat.id, repeat.duplicate_of]) == [repeat.duplicate_of] * 2
        assert len(set(store.winners().values())) == len(store.winners())


def test_a_candidate_that_gives_other_bits_is_no_test_score(path: Path) -> None:
    with opened(path) as run:
        winner = run.store.winners()["winner"]
        seed = run.store.winners()["seed"]

    class Fickle(HashedWorker):
        def again(self, program, prompts, expected):
            return super().again(program, prompts, "other bits" if program.id == seed else expected)

    with opened(path, Fickle) as run:
        with pytest.raises(StageError, match=f"{seed} did not give its dev result on test .nondeterministic"):
            final.test(run)
        assert winner in run.store.counts(Split.TEST)  # what was scored before stays
        assert seed not in run.store.counts(Split.TEST)
        assert "Traceback" not in report(run.store)
    with opened(path) as run:
        assert final.test(run) == 2
        assert run.store.openings() == 1


def test_an_unfinished_run_has_nothing_to_test(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        loop.record_facts(run)
        with pytest.raises(RunError, match="has registered nothing yet"):
            final.test(run)
        assert run.store.openings() == 0
        assert "sealed; no candidate is registered yet" in report(run.store)


# -- the sealed file --------------------------------------------------------------------------------------------------


def tampered(path: Path, kind: str) -> None:
    file = path / SEALED_NAME
    rows = json.loads(file.read_text())
    if kind == "answer":
        rows[3]["gold"] = "999"
    elif kind == "fewer":
        rows.pop()
    file.write_text(json.dumps(rows, indent=0) + ("\n" if kind == "space" else ""))


@pytest.mark.parametrize("kind", ["answer", "fewer", "space"])
def test_a_changed_file_is_refused(kind: str, path: Path) -> None:
    tampered(path, kind)
    with opened(path) as run:
        with pytest.raises(RunError, match=r"test\.json has changed since the run was begun") as caught:
            final.test(run)
        assert "\n" not in str(caught.value)
        assert run.store.counts(Split.TEST) == {}


def test_a_missing_file_is_refused(path: Path) -> None:
    (path / SEALED_NAME).unlink()
    with opened(path) as run, pytest.raises(RunError, match=r"test\.json cannot be read .No such file"):
        final.test(run)


def test_the_commands(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`selfdev register`, `selfdev test`, once more, and on a changed file."""
    monkeypatch.setattr(wiring, "build_parts", lambda config: racing_parts(2))
    changed = Path(shutil.copytree(path, path.with_name("changed")))
    with opened(path) as run:
        (named,) = others(run.store, 1)
    assert command(["register", str(path), named], capsys).startswith(f"registered: {named}\n")
    first = command(["test", str(path)], capsys)
    assert "4 candidates on 40 test questions, opening 1" in first
    assert "the set was opened once" in first
    again = command(["test", str(path)], capsys)
    assert "opening 2" not in again
    assert "the set was opened once" in again
    late = command(["register", str(path), named], capsys)
    assert "after 1 opening(s) of the test set: the report says so" in late
    tampered(changed, "answer")
    with pytest.raises(SystemExit) as caught:
        main(["test", str(changed)])
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.count("\n") == 1
    assert "has changed since the run was begun, so its test scores would mean nothing" in error


def command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    return capsys.readouterr().out
