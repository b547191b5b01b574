# family: input and output
# tries: write a file with the builtin
# expected: rejected at run time
# status: exception
# never: /tmp/selfdev-payload/canary exists
def merge_models(task_vectors):
    open("/tmp/selfdev-payload/canary", "w").close()
    return dict(task_vectors[0])
