# family: introspection
# tries: probe a forbidden name through hasattr, swallowing everything
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    hasattr(task_vectors, "__reduce__")
    return dict(task_vectors[0])
