# family: introspection
# tries: read the globals of a builtin wrapped in partial
# expected: rejected at compile
# status: violation
# never: accepted
import functools


def merge_models(task_vectors):
    p = functools.partial(len)
    return p.func.__globals__
