# family: introspection
# tries: a pattern that binds the name of a guard
# expected: rejected at compile
# status: violation
# never: accepted
def merge_models(task_vectors):
    match lambda obj, name: 0:
        case _getattr_:
            return task_vectors.anything
