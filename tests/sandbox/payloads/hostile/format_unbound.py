# tries: str.format through the type
# outcomes: violation
def merge_models(task_vectors):
    raise ValueError(list(map(str.format, ["{0.__class__}"], [1]))[0])
