# family: introspection
# tries: shadow a guard hook as a keyword-only argument
# expected: rejected at compile
# status: violation
# never: accepted
def merge_models(task_vectors, *, _getitem_=None):
    return dict(task_vectors[0])
