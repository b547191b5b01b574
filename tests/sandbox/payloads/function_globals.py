# family: introspection
# tries: walk from a function to its globals
# expected: rejected at compile
# status: violation
# never: /tmp/selfdev-payload/canary exists
def merge_models(task_vectors):
    merge_models.__globals__["__builtins__"]["open"]("/tmp/selfdev-payload/canary", "w")
    return dict(task_vectors[0])
