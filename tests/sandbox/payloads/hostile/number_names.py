# tries: names that are no strings
# outcomes: invalid
def merge_models(task_vectors):
    return dict(enumerate(task_vectors[0].values()))
