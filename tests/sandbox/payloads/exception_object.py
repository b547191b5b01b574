# family: introspection
# tries: reach an object through AttributeError.obj
# expected: rejected at run time
# status: unsupported, violation
# never: accepted
import torch


def merge_models(task_vectors):
    try:
        torch.nothing_like_this
    except AttributeError as error:
        error.obj.table.clear()
    return dict(task_vectors[0])
