# family: introspection
# tries: swallow a failure by returning in finally
# expected: rejected at compile
# status: unsupported
# never: accepted
def merge_models(task_vectors):
    try:
        1 / 0
    finally:
        return task_vectors[0]
