# family: wrong results
# tries: tensors of the right names, exchanged between two shapes
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    d = dict(task_vectors[0])
    names = list(d)
    d[names[0]], d[names[1]] = d[names[1]], d[names[0]]
    return d
