# family: wrong results
# tries: another dtype
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return {k: v.double() for k, v in task_vectors[0].items()}
