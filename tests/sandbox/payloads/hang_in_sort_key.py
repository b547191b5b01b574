# family: hang
# tries: sleep for ever in a sort key
# expected: killed
# status: timeout
# never: accepted
def merge_models(task_vectors):
    def key(k):
        while True:
            pass

    return {k: task_vectors[0][k] for k in sorted(task_vectors[0], key=key)}
