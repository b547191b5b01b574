# tries: evaluate a string
# outcomes: unsupported, exception
def merge_models(task_vectors):
    eval("__import__('os').system('touch CANARY')")
    return dict(task_vectors[0])
