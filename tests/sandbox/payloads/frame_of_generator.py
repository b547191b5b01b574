# family: introspection
# tries: climb frames from a generator
# expected: rejected at compile
# status: violation
# never: accepted
def merge_models(task_vectors):
    walk = (0 for _ in [0])
    walk.gi_frame.f_back.f_globals["x"] = 1
    return dict(task_vectors[0])
