# family: input and output
# tries: send the task vectors over a socket
# expected: rejected at compile
# status: violation
# never: accepted
import socket


def merge_models(task_vectors):
    s = socket.create_connection(("127.0.0.1", 80), 1)
    s.send(repr(task_vectors).encode())
    return dict(task_vectors[0])
