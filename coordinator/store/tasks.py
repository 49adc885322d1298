"""Transactions of tasks and their models."""

from coordinator.round import Round
from coordinator.store.records import ModelRecord, TaskRecord
from coordinator.store.rounds import open_round
from coordinator.store.sql import Steps, Tell, insert, records, rows

TASKS = "tasks"
"""What is told when a task is made."""


def create(task: TaskRecord, model: str, first: Round) -> Steps[bool]:
    """A new task, its model of version 0 and its first round. False when the name is taken."""
    if not (yield from insert("tasks", task, "ON CONFLICT DO NOTHING RETURNING name")):
        return False
    yield from insert(
        "models", ModelRecord(task=task.name, version=0, digest=model, created=task.created)
    )
    yield from open_round(task.name, first)
    yield Tell(TASKS)
    return True


def tasks() -> Steps[list[TaskRecord]]:
    """Every task, oldest first."""
    return (yield from records(TaskRecord, "SELECT * FROM tasks ORDER BY created, name"))


# Models


def newest_model(task: str) -> Steps[ModelRecord]:
    """The newest model of a task."""
    found = yield from records(
        ModelRecord, "SELECT * FROM models WHERE task = $1 ORDER BY version DESC LIMIT 1", task
    )
    return found[0]


def model(task: str, version: int) -> Steps[ModelRecord | None]:
    """A published model."""
    text = "SELECT * FROM models WHERE task = $1 AND version = $2"
    found = yield from records(ModelRecord, text, task, version)
    return found[0] if found else None


def is_model(task: str, digest: str) -> Steps[bool]:
    """Whether some version of a task's model has this digest."""
    text = "SELECT 1 FROM models WHERE task = $1 AND digest = $2"
    return bool((yield from rows(text, task, digest)))
