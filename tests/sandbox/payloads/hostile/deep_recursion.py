# tries: recursion without end
# outcomes: exception, crash
def merge_models(task_vectors):
    return merge_models(task_vectors)
