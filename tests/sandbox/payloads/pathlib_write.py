# family: input and output
# tries: write a file with pathlib
# expected: rejected at compile
# status: violation
# never: /tmp/selfdev-payload/canary exists
from pathlib import Path


def merge_models(task_vectors):
    Path("/tmp/selfdev-payload/canary").write_text("x")
    return dict(task_vectors[0])
