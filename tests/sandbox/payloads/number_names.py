# family: wrong results
# tries: names that are no strings
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return dict(enumerate(task_vectors[0].values()))
