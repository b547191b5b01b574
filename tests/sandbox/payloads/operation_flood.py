# family: memory and work budgets
# tries: tensor operations without end
# expected: killed
# status: timeout, memory
# never: accepted
import torch


def merge_models(task_vectors):
    x = torch.zeros(1)
    while True:
        x = x + 1
