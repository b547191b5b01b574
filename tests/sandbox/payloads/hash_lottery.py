# family: nondeterminism
# tries: a number from the hash of a function, which is its address
# expected: rejected at run time
# status: exception
# never: accepted
def merge_models(task_vectors):
    n = hash((1, len)) % 97
    return {k: v * (1 + n * 1e-3) for k, v in task_vectors[0].items()}
