# tries: numbers instead of tensors
# outcomes: invalid
def merge_models(task_vectors):
    return {k: 0.0 for k in task_vectors[0]}
