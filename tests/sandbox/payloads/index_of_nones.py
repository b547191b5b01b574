# family: memory and work budgets
# tries: an index of ten thousand new axes
# expected: rejected at run time
# status: exception
# never: accepted
def merge_models(task_vectors):
    key = (None,) * 10 ** 4
    return {k: v[key] for k, v in task_vectors[0].items()}
