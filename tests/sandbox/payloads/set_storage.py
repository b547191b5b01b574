# family: input and output
# tries: point a tensor at other memory
# expected: rejected at compile
# status: violation
# never: accepted
def merge_models(task_vectors):
    return {k: v.set_(v) for k, v in task_vectors[0].items()}
