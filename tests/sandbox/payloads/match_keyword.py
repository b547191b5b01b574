# family: introspection
# tries: a class pattern whose keyword would read an attribute past the guard
# expected: rejected at compile
# status: unsupported
# never: accepted
def merge_models(task_vectors):
    match task_vectors:
        case list(__class__=kind):
            return kind
