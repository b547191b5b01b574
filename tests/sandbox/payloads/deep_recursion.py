# family: hang
# tries: recursion without end
# expected: rejected at run time
# also acceptable: killed
# status: exception, crash
# never: accepted
def merge_models(task_vectors):
    return merge_models(task_vectors)
