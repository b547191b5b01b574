# tries: import everything
# outcomes: unsupported
from torch import *


def merge_models(task_vectors):
    return dict(task_vectors[0])
