# family: introspection
# tries: import from the sandbox's own package
# expected: rejected at compile
# status: unsupported
# never: accepted
from . import client


def merge_models(task_vectors):
    return dict(task_vectors[0])
