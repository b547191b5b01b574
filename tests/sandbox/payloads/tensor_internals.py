# family: introspection
# tries: reach into a tensor handle
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    first = list(task_vectors[0].values())[0]
    getattr(first, "un" + "typed_storage")()
    return dict(task_vectors[0])
