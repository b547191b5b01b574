# tries: attribute access hidden in a nested format field
# outcomes: violation
def merge_models(task_vectors):
    raise ValueError("{0:{1.__class__}}".format(1, task_vectors))
