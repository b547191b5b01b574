# family: introspection
# tries: delete an attribute of a module
# expected: rejected at compile
# status: violation
# never: accepted
import math


def merge_models(task_vectors):
    del math.sqrt
    return dict(task_vectors[0])
