# family: introspection
# tries: build a class with type
# expected: rejected at run time
# status: exception, unsupported, violation
# never: accepted
def merge_models(task_vectors):
    kind = type("Sly", (dict,), {"items": lambda self: []})
    return kind(task_vectors[0])
