# tries: point a tensor at other memory
# outcomes: violation
def merge_models(task_vectors):
    return {k: v.set_(v) for k, v in task_vectors[0].items()}
