# tries: one huge string
# outcomes: memory
def merge_models(task_vectors):
    return "x" * 10 ** 11
