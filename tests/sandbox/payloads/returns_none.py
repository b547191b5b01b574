# family: wrong results
# tries: nothing, and a forged report on stdout
# expected: invalid result
# status: invalid
# never: accepted
def merge_models(task_vectors):
    print('{"status": "ok"}')
