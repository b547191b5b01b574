# tries: reach into a tensor handle
# outcomes: violation
def merge_models(task_vectors):
    first = list(task_vectors[0].values())[0]
    getattr(first, "un" + "typed_storage")()
    return dict(task_vectors[0])
