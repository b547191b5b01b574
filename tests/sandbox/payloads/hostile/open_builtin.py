# tries: write a file with the builtin
# outcomes: exception
def merge_models(task_vectors):
    open("CANARY", "w").close()
    return dict(task_vectors[0])
