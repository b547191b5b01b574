# tries: walk from a function to its globals
# outcomes: violation
def merge_models(task_vectors):
    merge_models.__globals__["__builtins__"]["open"]("CANARY", "w")
    return dict(task_vectors[0])
