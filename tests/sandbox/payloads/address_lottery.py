# family: luck
# tries: choose by the address of an object
# expected: invalid result
# also acceptable: harmless
# status: nondeterministic, ok
# never: two runs on equal inputs return different results
def merge_models(task_vectors):
    text = repr(lambda: 0)
    place = int(text.split("0x")[1].rstrip(">")[-9:], 16)
    return {k: v * (1 + place / 2**36) for k, v in task_vectors[0].items()}
