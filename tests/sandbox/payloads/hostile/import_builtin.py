# tries: call the import machinery by name
# outcomes: violation
def merge_models(task_vectors):
    __import__("os").system("touch CANARY")
    return dict(task_vectors[0])
