# family: introspection
# tries: get at the type of functions to build one from code
# expected: rejected at run time
# status: unsupported
# never: accepted
def merge_models(task_vectors):
    return type(merge_models)(1, 2)
