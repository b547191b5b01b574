# tries: a result of a huge norm
# outcomes: invalid
def merge_models(task_vectors):
    return {k: v * 1e6 for k, v in task_vectors[0].items()}
