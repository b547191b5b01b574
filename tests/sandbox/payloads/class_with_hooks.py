# family: introspection
# tries: a dict subclass that lies about its contents
# expected: rejected at compile
# status: unsupported
# never: accepted
class Lying(dict):
    def items(self):
        return []


def merge_models(task_vectors):
    return Lying(task_vectors[0])
