# family: wrong results
# tries: a flattened result
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return {k: v.reshape(-1, 1) for k, v in task_vectors[0].items()}
