"""The command line: parse, call, print. Expected errors are one line and exit code 1 or 2; bugs keep their traceback.

Commands import what they need when they run, so that `selfdev --help` and `selfdev show` answer at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from selfdev import __version__
from selfdev.cli import (
    ablate,
    apply,
    config,
    control,
    doctor,
    evaluate,
    export,
    gap,
    grade,
    plan,
    polish,
    run,
    selfimprove,
    show,
    test,
    transfer,
    zoo,
)
from selfdev.errors import SelfdevError

INTERRUPTED = 130  # exit code after Ctrl-C

app = typer.Typer(
    name="selfdev", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None
)
app.command("run")(run.run)
app.command("show")(show.show)
app.command("top")(show.top)
app.command("test")(test.test)
app.command("register")(test.register)
app.command("control")(control.control)
app.command("baselines")(control.baselines)
app.command("transfer", cls=transfer.Command)(transfer.transfer)
app.command("polish")(polish.polish)
app.command("ablate")(ablate.ablate)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("config")(config.show_config)
app.command("evaluate")(evaluate.evaluate)
app.command("grade")(grade.grade)
app.command("apply", cls=apply.Command)(apply.apply)
app.command("export")(export.export)
app.command("selfimprove")(selfimprove.selfimprove)
app.add_typer(gap.app, name="gap")
app.add_typer(zoo.app, name="zoo")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"selfdev {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Search for model-merging algorithms: a language model writes merge programs, their scores train it."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `selfdev` command.

    Args:
        arguments: instead of the process's own.
    """
    try:
        code = app(arguments, prog_name="selfdev", standalone_mode=False)
        if code == INTERRUPTED:  # typer swallows the exception
            raise KeyboardInterrupt
        sys.exit(code)
    except SelfdevError as error:
        _fail(str(error), error.exit_code)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "selfdev"
        _fail(f"{error.format_message()} (`{command} --help` lists what is allowed)", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; a run goes on with the same command", INTERRUPTED)


def _fail(message: str, code: int) -> None:
    print("selfdev: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
