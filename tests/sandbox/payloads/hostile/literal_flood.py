# tries: large literals again and again
# outcomes: timeout, memory
import torch


def merge_models(task_vectors):
    numbers = [0.5] * 200000
    while True:
        torch.tensor(numbers)
