# family: introspection
# tries: alias getattr and walk to __class__ in a comprehension
# expected: rejected at run time
# status: violation
# never: accepted
def merge_models(task_vectors):
    g = getattr
    x = task_vectors[0]
    [x := g(x, n) for n in ("__class__", "__base__", "__subclasses__")]
    return x()
