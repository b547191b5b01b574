# family: wrong results
# tries: a name left out
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return dict(list(task_vectors[0].items())[1:])
