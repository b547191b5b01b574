# tries: fill the child's memory
# outcomes: memory
def merge_models(task_vectors):
    hoard = [0]
    while True:
        hoard = hoard + hoard
