# family: introspection
# tries: climb frames from an exception
# expected: rejected at compile
# status: violation
# never: accepted
def merge_models(task_vectors):
    try:
        1 / 0
    except ZeroDivisionError as error:
        error.__traceback__.tb_frame.f_globals.clear()
    return dict(task_vectors[0])
