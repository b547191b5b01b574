# family: introspection
# tries: import the sandbox's client
# expected: rejected at run time
# status: unsupported
# never: accepted
import selfdev_sandbox.client as client


def merge_models(task_vectors):
    client.CONNECTION.send(1)
    return dict(task_vectors[0])
