# family: time
# tries: an endless loop in a generator's clean-up, which runs when nobody expects it
# expected: killed
# status: timeout
# never: accepted
def merge_models(task_vectors):
    def held():
        try:
            yield 1
        finally:
            while True:
                pass

    one = held()
    next(one)
    del one
    return task_vectors[0]
