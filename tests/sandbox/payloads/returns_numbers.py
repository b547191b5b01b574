# family: wrong results
# tries: numbers instead of tensors
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    return {k: 0.0 for k in task_vectors[0]}
