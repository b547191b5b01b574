# family: input and output
# tries: reach numpy through a tensor and write a file
# expected: rejected at run time
# also acceptable: rejected at compile
# status: unsupported, violation
# never: /tmp/selfdev-payload/canary exists
def merge_models(task_vectors):
    x = next(iter(task_vectors[0].values())).numpy()
    x.tofile("/tmp/selfdev-payload/canary")
    return dict(task_vectors[0])
