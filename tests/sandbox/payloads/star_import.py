# family: introspection
# tries: import everything
# expected: rejected at compile
# status: unsupported
# never: accepted
from torch import *


def merge_models(task_vectors):
    return dict(task_vectors[0])
