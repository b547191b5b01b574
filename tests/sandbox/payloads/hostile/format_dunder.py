# tries: attribute access by the format mini-language
# outcomes: violation
def merge_models(task_vectors):
    raise ValueError("{x.__class__.__mro__}".format(x=task_vectors))
