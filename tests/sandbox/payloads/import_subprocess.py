# family: input and output
# tries: run a command
# expected: rejected at compile
# status: violation
# never: /tmp/selfdev-payload/canary exists
from subprocess import run


def merge_models(task_vectors):
    run(["touch", "/tmp/selfdev-payload/canary"])
    return dict(task_vectors[0])
