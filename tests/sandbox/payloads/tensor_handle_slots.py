# family: introspection
# tries: read and forge the handle number of a tensor
# expected: rejected at run time
# status: unsupported
# never: accepted
def merge_models(task_vectors):
    first = list(task_vectors[0].values())[0]
    first.ref
    return dict(task_vectors[0])
