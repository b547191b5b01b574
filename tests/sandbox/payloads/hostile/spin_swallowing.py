# tries: loop for ever and swallow everything
# outcomes: timeout
def merge_models(task_vectors):
    while True:
        try:
            while True:
                pass
        except:
            pass
