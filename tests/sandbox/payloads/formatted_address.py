# family: nondeterminism
# tries: a number from the address that the text of a generator shows
# expected: invalid result
# status: nondeterministic
# never: accepted
def merge_models(task_vectors):
    n = int(str(v for v in task_vectors).split("0x")[1][:-1], 16)
    return {k: v * (1 + n // 4096 % 97 * 1e-3) for k, v in task_vectors[0].items()}
