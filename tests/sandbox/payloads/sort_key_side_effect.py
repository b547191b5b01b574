# family: wrong results
# tries: change the dictionary while it is being walked
# expected: rejected at run time
# status: exception
# never: accepted
def merge_models(task_vectors):
    d = dict(task_vectors[0])
    for k in d:
        d[k + "x"] = d[k]
    return d
