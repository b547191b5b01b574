# tries: get at the type of functions to build one from code
# outcomes: unsupported
def merge_models(task_vectors):
    return type(merge_models)(1, 2)
