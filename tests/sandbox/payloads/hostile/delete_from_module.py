# tries: delete an attribute of a module
# outcomes: violation
import math


def merge_models(task_vectors):
    del math.sqrt
    return dict(task_vectors[0])
