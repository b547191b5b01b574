# tries: a result that is not finite
# outcomes: invalid
def merge_models(task_vectors):
    return {k: v / (v - v) for k, v in task_vectors[0].items()}
