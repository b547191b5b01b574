# tries: shadow a guard hook as a keyword-only argument
# outcomes: violation
def merge_models(task_vectors, *, _getitem_=None):
    return dict(task_vectors[0])
