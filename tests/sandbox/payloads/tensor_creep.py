# family: memory and work budgets
# tries: fill the server's memory in steps
# expected: killed
# status: memory, timeout
# never: accepted
import torch


def merge_models(task_vectors):
    hoard = []
    while True:
        hoard.append(torch.ones(1024, 1024))
