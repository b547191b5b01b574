# family: wrong results
# tries: a result that is not finite
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return {k: v / (v - v) for k, v in task_vectors[0].items()}
