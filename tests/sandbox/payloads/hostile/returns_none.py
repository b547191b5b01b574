# tries: nothing, and a forged report on stdout
# outcomes: invalid
def merge_models(task_vectors):
    print('{"status": "ok"}')
