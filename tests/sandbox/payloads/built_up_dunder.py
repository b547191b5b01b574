# family: introspection
# tries: build a forbidden name at run time
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    name = "".join(["_"] * 2 + ["class"] + ["_"] * 2)
    try:
        getattr((), name)
    except Exception:
        pass
    return dict(task_vectors[0])
