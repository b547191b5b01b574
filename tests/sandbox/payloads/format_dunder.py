# family: introspection
# tries: attribute access by the format mini-language
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    raise ValueError("{x.__class__.__mro__}".format(x=task_vectors))
