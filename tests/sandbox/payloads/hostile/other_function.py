# tries: no function of the name asked for
# outcomes: unsupported
merge_models = {"alpha": 0.5}


def merge(task_vectors):
    return task_vectors[0]
