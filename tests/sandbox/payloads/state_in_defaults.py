# family: state
# tries: keep state for a later run
# expected: harmless
# status: ok
SEEN = []


def merge_models(task_vectors, memory={}):
    SEEN.append(1)
    memory[len(memory)] = 1
    return {k: v * len(SEEN) * len(memory) for k, v in task_vectors[0].items()}
