# family: introspection
# tries: leave quietly
# expected: rejected at run time
# status: exception
# never: accepted
def merge_models(task_vectors):
    raise SystemExit(0)
