"""The error tree of selfdev.

    SelfdevError                 expected: the command line prints one line and exits with `exit_code`
    |- UsageError       (2)      the user asked for something that cannot be: unknown key, wrong type, zero samples
    |- ModelError       (1)      a model directory that is missing, truncated or does not fit the seed
    |- DataError        (1)      a data file that is missing, empty or malformed
    |- RunError         (1)      a run directory that is locked, unwritable or belongs to another configuration
    '- StageError       (1)      a stage that could not go on: the trainer died, the sandbox cannot start
       '- EngineError   (1)      the engine failed while it held one candidate's weights; the next candidate may do

A message says what was given, what is allowed and what to do. Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class SelfdevError(Exception):
    """An expected failure, fit to be shown to a user as one line."""

    exit_code = 1


class UsageError(SelfdevError):
    """The command or configuration asks for something that cannot be."""

    exit_code = 2


class ModelError(SelfdevError):
    """A model cannot be used as seed, source or generator."""


class DataError(SelfdevError):
    """A data file cannot be used."""


class RunError(SelfdevError):
    """A run directory cannot be used."""


class StageError(SelfdevError):
    """A stage of the loop could not go on."""


class EngineError(StageError):
    """The engine failed while it held a candidate's weights. They are gone from it: the seed is in place."""
