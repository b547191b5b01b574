# tries: import from the sandbox's own package
# outcomes: unsupported
from . import client


def merge_models(task_vectors):
    return dict(task_vectors[0])
