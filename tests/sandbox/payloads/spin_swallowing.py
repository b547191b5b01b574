# family: hang
# tries: loop for ever and swallow everything
# expected: killed
# status: timeout
# never: accepted
def merge_models(task_vectors):
    while True:
        try:
            while True:
                pass
        except:
            pass
