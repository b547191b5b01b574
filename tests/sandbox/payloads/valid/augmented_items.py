# exercises: augmented assignment to items of dicts, lists and tensors, evaluated once
def merge_models(task_vectors):
    calls = []

    def key(k):
        calls.append(k)
        return k

    out = {k: v.clone() for k, v in task_vectors[0].items()}
    weights = [1.0, 0.0]
    weights[0] -= 0.25
    weights[-1] += 0.5
    for tv in task_vectors[1:]:
        for k in tv:
            out[key(k)] += weights[0] * tv[k]
            out[k][0] *= 0.5
            out[k][..., -1] -= weights[1]
    assert len(calls) == (len(task_vectors) - 1) * len(out)
    return out
