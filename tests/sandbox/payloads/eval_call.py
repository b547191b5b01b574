# family: introspection
# tries: evaluate a string
# expected: rejected at compile
# also acceptable: rejected at run time
# status: unsupported, exception
# never: /tmp/selfdev-payload/canary exists
def merge_models(task_vectors):
    eval("__import__('os').system('touch /tmp/selfdev-payload/canary')")
    return dict(task_vectors[0])
