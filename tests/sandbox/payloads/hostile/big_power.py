# tries: one endless C call
# outcomes: timeout, memory
def merge_models(task_vectors):
    return len(task_vectors) ** (10 ** 9) % 7
