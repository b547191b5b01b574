# family: input and output
# tries: call the import machinery by name
# expected: rejected at compile
# status: violation
# never: /tmp/selfdev-payload/canary exists
def merge_models(task_vectors):
    __import__("os").system("touch /tmp/selfdev-payload/canary")
    return dict(task_vectors[0])
