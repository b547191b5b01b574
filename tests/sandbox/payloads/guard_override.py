# family: introspection
# tries: replace a guard hook
# expected: rejected at compile
# status: violation
# never: accepted
def merge_models(task_vectors):
    _getattr_ = lambda obj, name: obj
    return dict(task_vectors[0])
