"""The store's tables, as numbered steps: a store of any earlier version is brought up to date when it is opened."""

from __future__ import annotations

import sqlite3


def _m001_first(db: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
        """CREATE TABLE question (
            id TEXT PRIMARY KEY, split TEXT NOT NULL, position INTEGER NOT NULL, prompt_hash TEXT NOT NULL,
            skill TEXT NOT NULL, UNIQUE (split, position)) STRICT""",
        """CREATE TABLE candidate (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, iteration INTEGER NOT NULL,
            idx INTEGER NOT NULL, checkpoint TEXT NOT NULL, temperature REAL, sample_seed TEXT, text TEXT NOT NULL,
            source TEXT, tokens INTEGER NOT NULL, nll REAL NOT NULL, truncated INTEGER NOT NULL,
            execution_seed TEXT NOT NULL, status TEXT, error TEXT, line INTEGER, operations INTEGER NOT NULL DEFAULT 0,
            peak_bytes INTEGER NOT NULL DEFAULT 0, result_hash TEXT, duplicate_of TEXT REFERENCES candidate (id),
            UNIQUE (kind, iteration, idx)) STRICT""",
        "CREATE INDEX candidate_result ON candidate (result_hash)",
        """CREATE TABLE answer (
            candidate_id TEXT NOT NULL REFERENCES candidate (id), question_id TEXT NOT NULL REFERENCES question (id),
            text TEXT NOT NULL, tokens INTEGER NOT NULL, truncated INTEGER NOT NULL, extracted TEXT,
            correct INTEGER NOT NULL, PRIMARY KEY (candidate_id, question_id)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE pair (
            iteration INTEGER NOT NULL, position INTEGER NOT NULL, chosen_id TEXT NOT NULL REFERENCES candidate (id),
            rejected_id TEXT NOT NULL REFERENCES candidate (id), chosen_score REAL NOT NULL, rejected_score REAL,
            PRIMARY KEY (iteration, position)) STRICT""",
        """CREATE TABLE iteration (
            iteration INTEGER PRIMARY KEY, temperature REAL NOT NULL, train TEXT NOT NULL, gap TEXT NOT NULL) STRICT""",
        "CREATE TABLE winner (role TEXT PRIMARY KEY, candidate_id TEXT NOT NULL REFERENCES candidate (id)) STRICT",
        """CREATE TABLE opening (
            id INTEGER PRIMARY KEY, opened_at TEXT NOT NULL, candidates TEXT NOT NULL, questions INTEGER NOT NULL)
            STRICT""",
        """CREATE TABLE phase (
            iteration INTEGER NOT NULL, name TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (iteration, name))
            STRICT""",
    ):
        db.execute(statement)


def _m002_fingerprints(db: sqlite3.Connection) -> None:
    for statement in (
        "ALTER TABLE candidate ADD COLUMN fingerprint TEXT",
        "ALTER TABLE candidate ADD COLUMN tags TEXT NOT NULL DEFAULT ''",  # separated by blanks
        "ALTER TABLE candidate ADD COLUMN refused TEXT",
        "ALTER TABLE answer ADD COLUMN empty INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE answer ADD COLUMN repetitive INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE answer ADD COLUMN timed_out INTEGER NOT NULL DEFAULT 0",
        "UPDATE answer SET empty = (trim(text, ' ' || char(9, 10, 13)) = '')",
    ):
        db.execute(statement)


def _m003_races(db: sqlite3.Connection) -> None:
    for statement in (
        "ALTER TABLE question ADD COLUMN block INTEGER NOT NULL DEFAULT 0",  # of dev questions; 0 is the baselines'
        "ALTER TABLE question ADD COLUMN turn INTEGER NOT NULL DEFAULT 0",  # place in its block: the order of a race
        "ALTER TABLE question ADD COLUMN held_out INTEGER NOT NULL DEFAULT 0",  # no decision of a race sees it
        "UPDATE question SET turn = position",
        """CREATE TABLE standing (
            candidate_id TEXT PRIMARY KEY REFERENCES candidate (id), place INTEGER NOT NULL, asked INTEGER NOT NULL,
            correct INTEGER NOT NULL, wins INTEGER NOT NULL, losses INTEGER NOT NULL, dropped TEXT,
            finalist INTEGER NOT NULL) STRICT""",
        "ALTER TABLE iteration ADD COLUMN evidence TEXT NOT NULL DEFAULT '{}'",  # of its pairs
        "ALTER TABLE winner ADD COLUMN openings INTEGER NOT NULL DEFAULT 0",  # of the test set before it was registered
    ):
        db.execute(statement)


def _m004_judgements(db: sqlite3.Connection) -> None:
    db.execute(
        """CREATE TABLE judgement (
            candidate_id TEXT NOT NULL REFERENCES candidate (id), verifier TEXT NOT NULL, score REAL NOT NULL,
            nll REAL, reference_nll REAL, PRIMARY KEY (candidate_id, verifier)) STRICT, WITHOUT ROWID"""
    )


def _m005_external_pairs(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE pair ADD COLUMN chosen_text TEXT")  # where training saw more than the candidate's text


def _m006_measurement_samples(db: sqlite3.Connection) -> None:
    for statement in (
        """CREATE TABLE measured (
            id TEXT PRIMARY KEY, iteration INTEGER NOT NULL, idx INTEGER NOT NULL, checkpoint TEXT NOT NULL,
            temperature REAL NOT NULL, sample_seed TEXT NOT NULL, text TEXT NOT NULL, tokens INTEGER NOT NULL,
            nll REAL NOT NULL, truncated INTEGER NOT NULL, UNIQUE (iteration, idx)) STRICT""",
        """CREATE TABLE measured_judgement (
            measured_id TEXT NOT NULL REFERENCES measured (id), verifier TEXT NOT NULL, score REAL NOT NULL,
            nll REAL, reference_nll REAL, PRIMARY KEY (measured_id, verifier)) STRICT, WITHOUT ROWID""",
    ):
        db.execute(statement)


def _m007_checkpoints(db: sqlite3.Connection) -> None:
    """Samples of one iteration may be of several checkpoints: SQLite changes a UNIQUE by a new table only."""
    judged = """CREATE TABLE measured_judgement (
            measured_id TEXT NOT NULL REFERENCES measured (id), verifier TEXT NOT NULL, score REAL NOT NULL,
            nll REAL, reference_nll REAL, PRIMARY KEY (measured_id, verifier)) STRICT, WITHOUT ROWID"""
    for statement in (
        "CREATE TEMP TABLE old_judgement AS SELECT * FROM measured_judgement",
        "CREATE TEMP TABLE old_measured AS SELECT * FROM measured",
        "DROP TABLE measured_judgement",
        "DROP TABLE measured",
        # step: optimiser steps of the iteration's DPO stage before it; time: iteration plus the share of what it learns
        """CREATE TABLE measured (
            id TEXT PRIMARY KEY, iteration INTEGER NOT NULL, step INTEGER NOT NULL, time REAL NOT NULL,
            idx INTEGER NOT NULL, checkpoint TEXT NOT NULL, temperature REAL NOT NULL, sample_seed TEXT NOT NULL,
            text TEXT NOT NULL, tokens INTEGER NOT NULL, nll REAL NOT NULL, truncated INTEGER NOT NULL,
            UNIQUE (iteration, step, idx)) STRICT""",
        judged,
        """INSERT INTO measured SELECT id, iteration, 0, iteration, idx, checkpoint, temperature, sample_seed, text,
            tokens, nll, truncated FROM old_measured""",
        "INSERT INTO measured_judgement SELECT * FROM old_judgement",
        "DROP TABLE old_judgement",
        "DROP TABLE old_measured",
    ):
        db.execute(statement)


MIGRATIONS = (
    ("001_first", _m001_first),
    ("002_fingerprints", _m002_fingerprints),
    ("003_races", _m003_races),
    ("004_judgements", _m004_judgements),
    ("005_external_pairs", _m005_external_pairs),
    ("006_measurement_samples", _m006_measurement_samples),
    ("007_checkpoints", _m007_checkpoints),
)
