# exercises: nonlocal, closures, global constants, lambda defaults
SCALE = 0.5


def merge_models(task_vectors):
    count = 0

    def bump(step=1):
        nonlocal count
        count += step
        return count

    pick = lambda x, s=SCALE: s * x
    out = {}
    for name in sorted(task_vectors[0], key=len):
        bump()
        out[name] = pick(sum(tv[name] for tv in task_vectors)) / count
    return {name: out[name] for name in task_vectors[0]}
