# family: introspection
# tries: attribute access hidden in a nested format field
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    raise ValueError("{0:{1.__class__}}".format(1, task_vectors))
