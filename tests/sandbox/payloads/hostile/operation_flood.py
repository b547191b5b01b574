# tries: tensor operations without end
# outcomes: timeout, memory
import torch


def merge_models(task_vectors):
    x = torch.zeros(1)
    while True:
        x = x + 1
