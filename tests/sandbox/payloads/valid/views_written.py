# exercises: writes through views of inputs show in the inputs, as in PyTorch
def merge_models(task_vectors):
    first = task_vectors[0]
    for k, v in first.items():
        flat = v.view(-1)
        flat[::2] = 0
        if v.dim() == 2:
            v.t()[0].mul_(2)
            row = v[1]
            row += 0.01
        v.data.add_(0.001)
    return {k: first[k] + task_vectors[1][k] for k in first}
