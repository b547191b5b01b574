# family: introspection
# tries: set attributes through builtins
# expected: rejected at run time
# status: exception
# never: accepted
import torch


def merge_models(task_vectors):
    setattr(torch, "zeros", None)
    return dict(task_vectors[0])
