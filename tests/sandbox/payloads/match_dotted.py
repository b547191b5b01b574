# family: introspection
# tries: a dotted value in a pattern, an attribute read that no guard sees
# expected: rejected at compile
# status: unsupported, violation
# never: accepted
def merge_models(task_vectors):
    match task_vectors:
        case task_vectors.__class__:
            return task_vectors[0]
