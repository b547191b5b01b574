# tries: build a forbidden name at run time
# outcomes: violation
def merge_models(task_vectors):
    name = "".join(["_"] * 2 + ["class"] + ["_"] * 2)
    try:
        getattr((), name)
    except Exception:
        pass
    return dict(task_vectors[0])
