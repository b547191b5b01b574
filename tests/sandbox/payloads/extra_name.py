# family: wrong results
# tries: a name of its own
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return {**task_vectors[0], "extra": list(task_vectors[0].values())[0]}
