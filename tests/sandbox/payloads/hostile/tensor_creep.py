# tries: fill the server's memory in steps
# outcomes: memory
import torch


def merge_models(task_vectors):
    hoard = []
    while True:
        hoard.append(torch.ones(1024, 1024))
