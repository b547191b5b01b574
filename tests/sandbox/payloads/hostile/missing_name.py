# tries: a name left out
# outcomes: invalid
def merge_models(task_vectors):
    return dict(list(task_vectors[0].items())[1:])
