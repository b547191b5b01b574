# exercises: nonlocal state in closures, generator functions with yield, next with default, del, while with else
import torch


def merge_models(task_vectors):
    budget = 5.0
    log = []

    def spend(amount):
        nonlocal budget
        taken = min(amount, budget)
        budget -= taken
        log.append((round(amount, 3), round(taken, 3)))
        return taken

    def by_energy():
        sizes = {k: float(v.float().norm()) for k, v in task_vectors[0].items()}
        while sizes:
            top = max(sizes, key=sizes.get)
            del sizes[top]
            yield top
        else:
            log.append(("done", 0))

    merged = {k: torch.zeros_like(v) for k, v in task_vectors[0].items()}
    order = by_energy()
    name = next(order, None)
    while name is not None:
        share = spend(0.6) if name != "model.norm.weight" else spend(0.2)
        for tv in task_vectors:
            merged[name] += (share / len(task_vectors)) * tv[name]
        name = next(order, None)
    assert len(log) == len(merged) + 1 and log[-1][0] == "done"
    return merged
