# tries: replace a guard hook
# outcomes: violation
def merge_models(task_vectors):
    _getattr_ = lambda obj, name: obj
    return dict(task_vectors[0])
