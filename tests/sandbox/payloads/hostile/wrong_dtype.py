# tries: another dtype
# outcomes: invalid
def merge_models(task_vectors):
    return {k: v.double() for k, v in task_vectors[0].items()}
