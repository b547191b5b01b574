# family: wrong results
# tries: no function of the name asked for
# expected: rejected at run time
# status: unsupported
# never: accepted
merge_models = {"alpha": 0.5}


def merge(task_vectors):
    return task_vectors[0]
