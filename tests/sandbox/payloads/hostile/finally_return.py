# tries: swallow a failure by returning in finally
# outcomes: unsupported
def merge_models(task_vectors):
    try:
        1 / 0
    finally:
        return task_vectors[0]
