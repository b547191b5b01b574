# family: introspection
# tries: str.format through the type
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    raise ValueError(list(map(str.format, ["{0.__class__}"], [1]))[0])
