# family: memory and work budgets
# tries: large literals again and again
# expected: killed
# status: timeout, memory
# never: accepted
import torch


def merge_models(task_vectors):
    numbers = [0.5] * 200000
    while True:
        torch.tensor(numbers)
