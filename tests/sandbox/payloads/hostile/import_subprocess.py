# tries: run a command
# outcomes: violation
from subprocess import run


def merge_models(task_vectors):
    run(["touch", "CANARY"])
    return dict(task_vectors[0])
